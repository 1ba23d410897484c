"""The usual training loop of ``diffusers``, watched for memorisation.

A ``UNet2DModel`` learns 8 x 8 digits with ``DDPMScheduler`` and ``accelerate``. The lines marked
``# memdiff`` are all that watching takes: they stop the loop when samples begin to be copies of
training images, and keep the best weights from before.

    pip install 'memdiff[diffusers]'
    python examples/diffusers_training.py --out ddpm
    accelerate launch --multi_gpu --num_processes 2 examples/diffusers_training.py --out ddpm

The folder is a ``DDPMPipeline`` like any other.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from memdiff import load  # memdiff
from memdiff.scores import DiffusersScore  # memdiff
from memdiff.training import Monitor, MonitorSettings  # memdiff


def main(arguments: Sequence[str] | None = None) -> Monitor:
    """Train; returns the monitor with what it has seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the pipeline")
    parser.add_argument("--points", type=int, default=128, help="number of training images")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--look-every", type=int, default=500, help="steps between observations")
    parser.add_argument("--quick", action="store_true", help="half a minute: few images and steps")
    args = parser.parse_args(arguments)
    if args.quick:
        parser.set_defaults(points=16, steps=300, batch_size=16, look_every=100)
        args = parser.parse_args(arguments)

    set_seed(0)
    accelerator = Accelerator()
    images = load("digits").x  # in [-1, 1]
    images = images[torch.randperm(len(images))]
    train, heldout = images[: args.points], images[-200:]

    width = 16 if args.quick else 64
    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3 if args.quick else 3e-4)
    loader = DataLoader(TensorDataset(train), args.batch_size, shuffle=True, drop_last=False)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    score = DiffusersScore(accelerator.unwrap_model(model), scheduler)  # memdiff
    look = MonitorSettings(samples=64, draws=128)  # memdiff
    train, heldout = train.to(score.device), heldout.to(score.device)  # memdiff
    monitor = Monitor(train, heldout, score.process, look)  # memdiff
    best = None

    step, stop = 0, False
    while step < args.steps and not stop:
        for (clean,) in loader:
            noise = torch.randn_like(clean)
            timesteps = torch.randint(0, 1000, (len(clean),), device=clean.device)
            noisy = scheduler.add_noise(clean, noise, timesteps)
            loss = mse_loss(model(noisy, timesteps).sample, noise)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % args.look_every == 0:
                if accelerator.is_main_process:
                    seen = monitor.observe(step, score)  # memdiff
                    if monitor.is_best():  # memdiff
                        best = copy.deepcopy(score.net.state_dict())  # memdiff
                    print(
                        f"step {step}: loss {loss.item():.3f}, held-out {seen.heldout_loss:.3f}, "
                        f"copies {seen.fraction:.0%}, closer to train {seen.closer_to_train:.0%} "
                        f"(fresh images: {seen.null_closer:.0%})"
                    )
                stop = broadcast_object_list([monitor.memorizing])[0]  # memdiff
            if stop or step >= args.steps:
                break

    if accelerator.is_main_process:
        if best is not None:
            score.net.load_state_dict(best)  # memdiff
        DDPMPipeline(score.net, scheduler).save_pretrained(args.out)
        onset = monitor.onset
        print(f"onset of memorisation: {onset.onset}; kept: step {onset.best or step}; {args.out}")
    accelerator.end_training()
    return monitor


if __name__ == "__main__":
    main()
