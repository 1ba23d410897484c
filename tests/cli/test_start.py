"""What is said before anything heavy is loaded: help, versions, bad usage, completion."""

import subprocess
import sys

import pytest

from memdiff.cli import audit, main, sample, train
from memdiff.cli.parser import Parser
from memdiff.cli.settings import Option, Settings
from memdiff.cli.terminal import shown


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["audit", "--help"],
        ["sample", "--help"],
        ["train", "--help"],
        ["reproduce", "--help"],
        ["sample", "--train"],
        ["train", "--colour", "red"],
    ],
    ids=" ".join,
)
def test_answers_without_torch(arguments):
    """torch alone takes ten times as long as the answer; a heavy import at module level."""
    code = (
        "import sys\n"
        "from memdiff.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [audit, sample, train], ids=lambda one: one.__name__)
def test_defaults_are_those_of_the_library(command):
    """What is parsed from no options is the record with no arguments."""
    parser = Parser()
    command.SETTINGS.declare(parser)
    record = command.SETTINGS.of(parser.parse_args([]))
    plain = command.SETTINGS.record()
    for name in command.SETTINGS.options:
        given, default = getattr(record, name), getattr(plain, name)
        assert (tuple(given) if isinstance(given, list) else given) == default, name


def test_other_defaults_of_train_are_those_of_the_library():
    from memdiff.training import AffineAugmentation, ModelConfig, MonitorSettings, RunSettings

    parser = Parser()
    train.add_arguments(parser)
    given = parser.parse_args(["--train", "x", "--out", "y"])
    model, run = ModelConfig(shape=(2,), sigma_data=1.0), RunSettings()
    for name in ("network", "width", "depth", "dropout", "process", "parametrization"):
        assert given[name] == getattr(model, name), name
    for name in (
        "tikhonov",
        "monitor_every",
        "stop_on_memorization",
        "heldout_share",
        "time_limit",
    ):
        assert given[name] == getattr(run, name), name
    for name in ("degrees", "shift", "zoom", "mirror"):
        assert given[f"augment_{name}"] == getattr(AffineAugmentation(), name), name
    monitor = MonitorSettings()
    assert given.monitor_samples == monitor.samples and given.audit_samples == monitor.confirm
    assert given.sampler_steps == monitor.sampler.steps


def test_an_option_that_the_library_does_not_know_is_refused():
    settings = Settings("memdiff.audit.settings:AuditSettings", {"colour": Option("none")})
    with pytest.raises(KeyError):
        settings.declare(Parser())


def test_the_package_lists_and_finds_its_names():
    import memdiff

    assert set(memdiff.__all__) <= set(dir(memdiff))
    for name in dir(memdiff):
        assert getattr(memdiff, name) is not None
    code = (
        "import memdiff, sys\n"
        "assert 'torch' not in sys.modules\n"
        "memdiff.data.load, memdiff.audit.AuditSettings, memdiff.EmpiricalScore\n"
        "from memdiff import *\n"
        "Tikhonov, load\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = memdiff.nothing


def test_abbreviated_options_are_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for the day on which they are not
    code, out, err = run(capsys, "sample", "--tra", "digits", "--out", "x.npz")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--tra" in err and "options are written in full, --train" in err


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("audit", ("--generated P", "--train P", "--out DIR")),
        ("sample", ("--train P", "--out FILE")),
        ("train", ("--train P", "--out DIR")),
        ("reproduce", ("--out DIR",)),
    ],
)
def test_required_options_look_required(capsys, command, required):
    _, text, _ = run(capsys, command, "--help")
    usage, _, rest = text.partition("\n\n")
    usage = " ".join(usage.split())
    optional = usage.find("[")
    for option in required:
        assert option in usage and usage.index(option) < optional, usage
    assert rest.index("required") < rest.index("\noptions:")


def test_completion_says_what_it_needs(capsys, monkeypatch):
    import importlib.util

    if importlib.util.find_spec("shtab") is not None:
        pytest.skip("shtab is installed")
    monkeypatch.setenv("JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT", "true")
    code, out, err = run(capsys, "--print_completion=shtab-bash")
    assert (code, out, err.count("\n")) == (2, "", 1) and "pip install shtab" in err


def test_missing_option_is_said_by_its_command(capsys):
    code, _, err = run(capsys, "train", "--train", "digits")
    assert code == 2 and err == "memdiff train: missing --out (see memdiff train --help)\n"


def test_text_is_shown_and_not_obeyed():
    assert shown("a\x1b[31m\r\x07b\n") == "a\\x1b[31m\\x0d\\x07b\n"
    assert shown("caf\udce9") == "caf\\xe9"
    assert shown("abc\u202etxt") == "abc\\u202etxt"
    assert shown("Grüße, 図 \U0001f600") == "Grüße, 図 \U0001f600"


def test_finished_rows_say_so(monkeypatch):
    import io

    import rich.console

    from memdiff.cli.progress import bar

    screen = io.StringIO()
    terminal = rich.console.Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich.console, "Console", lambda **_: terminal)
    with bar(False) as show:
        show("sampling", 4, 4)
        show("training", 3, 10)
    last = screen.getvalue().splitlines()[-3:]
    assert any("sampling" in line and "done in 0:00:00" in line for line in last)
    assert any("training" in line and "stopped after 0:00:00" in line for line in last)
