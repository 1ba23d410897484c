"""One call from data to the report: its files are what it returns."""

import json
from dataclasses import replace
from typing import get_args

import torch

from memdiff.audit.verdict import VerdictName
from memdiff.data import Dataset, load
from memdiff.samplers import Heun
from memdiff.training import MonitorSettings, RunSettings, TrainingSettings, train_and_report
from memdiff.training.run_page import compose

SETTINGS = RunSettings(
    training=TrainingSettings(steps=6, batch_size=7),
    monitor=MonitorSettings(samples=4, draws=8, confirm=40, sampler=Heun(steps=3)),
    monitor_every=3,
)
DATA = Dataset(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), "vectors")


def test_the_report_holds_what_the_call_returns(tmp_path):
    run, assessment = train_and_report(DATA, tmp_path, {"width": 8}, SETTINGS)
    assert (run.ending, run.step, len(assessment.samples)) == ("steps", 6, 40)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == assessment.audit.verdict
    assert report["settings"]["training"]["ema"] == TrainingSettings().ema
    assert torch.equal(load(tmp_path / "samples.npz", key="x").x, assessment.samples.x)
    page = (tmp_path / "report.html").read_text()
    assert "Audit of the kept model" in page and "Samples while training" not in page
    assert json.loads((tmp_path / "audit.json").read_text())["verdict"] == report["verdict"]
    assert (tmp_path / "audit.html").is_file()
    for name in get_args(VerdictName):  # a run of any verdict has a page
        audit = assessment.audit
        found = replace(audit, verdict=name, decision=replace(audit.decision, name=name))
        banner = compose(run, replace(assessment, audit=found)).lead[0]
        assert banner.verdict.startswith("The kept model: ")


def test_a_run_that_goes_on_or_asks_for_no_samples_is_not_audited(tmp_path):
    hurried = replace(SETTINGS, time_limit=1e-9)
    none = replace(SETTINGS, monitor=replace(SETTINGS.monitor, confirm=0))
    for name, settings, ending in (("time", hurried, "time"), ("none", none, "steps")):
        run, assessment = train_and_report(DATA, tmp_path / name, {"width": 8}, settings)
        assert (run.ending, assessment) == (ending, None)
        assert "Trained, not audited" in (run.folder / "report.html").read_text()
        assert not (run.folder / "audit.json").exists()
