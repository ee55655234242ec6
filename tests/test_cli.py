"""The command line as a user meets it: exit codes, one sentence per error, JSON alone on standard output."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.main import get_params_from_function
from typer.models import OptionInfo

from segtrans.cli import app, main
from segtrans.cli.options import zoo_app
from segtrans.config import RunConfig
from segtrans.data import load_data

MODEL = "zoo:voc/pspnet-mobilenetv3s"
RUN = (
    "run", "--surrogate", MODEL, "--target", MODEL, "--target", "zoo:voc/deeplabv3plus-mobilenetv3s",
    "--attack", "noise", "--attack", "segpgd + remap(grid=2) + mi", "--data", "photos?side=96", "--limit", "2",
    "--eps", "8/255", "--iterations", "2", "--seed", "0",
)  # fmt: skip


def segtrans(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(*arguments),
        capture_output=True, text=True, cwd=cwd, timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def command_line(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", "from segtrans.cli import main; main()", *map(str, arguments)]


def commands(command: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by what is typed to call it."""
    command = typer.main.get_command(app) if command is None else command
    for name, inner in command.commands.items():
        whole = f"{path} {name}".strip()
        yield from commands(inner, whole) if hasattr(inner, "commands") else [(whole, inner)]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "cat.png"
    sample = load_data("photos?side=96").take(3)[2]
    Image.fromarray(sample.image).save(path)
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One real run of the embedded models, all through the command line."""
    out = tmp_path_factory.mktemp("run")
    done = segtrans(*RUN, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), out


def test_plan_says_what_is_left(ran: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, out = ran
    options = (
        "-s", MODEL, "-t", MODEL, "-t", "zoo:voc/deeplabv3plus-mobilenetv3s", "-a", "noise",
        "-a", "segpgd + remap(grid=2) + mi", "--data", "photos?side=96", "--limit", "2", "--iterations", "2",
    )  # fmt: skip
    done = segtrans("plan", *options, "--out", out, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["units"], found["done"], found["gradient_evaluations"]) == (0, 2, 2, 0)
    done = segtrans("plan", *options, "--out", tmp_path / "new")
    assert "2 units of work on 2 images, 0 of them done\nleft: 4 gradient evaluations and" in done.stdout
    assert not (tmp_path / "new").exists()
    refused = segtrans("plan", *options, "--dry-run")
    assert (refused.returncode, "--dry-run" in refused.stderr) == (2, True)


def test_json_document_has_the_promised_keys(ran: tuple[dict[str, Any], Path]) -> None:
    document, _ = ran
    assert len(document["cells"]) == 4
    promised = {"surrogate", "target", "attack", "seed", "images", "miou_clean", "miou", "asr_miou", "asr_pixel"}
    assert promised <= set(document["cells"][0])
    assert {c["surrogate"] for c in document["cells"]} == {MODEL}
    assert {c["attack"] for c in document["cells"]} == {"noise", "segpgd + remap(grid=2) + mi"}
    assert {"surrogate", "attack", "gradient_evaluations", "seconds", "peak_memory"} <= set(document["costs"][0])
    assert [c["gradient_evaluations"] for c in document["costs"]] == [0, 2]


def test_a_run_leaves_tables_images_pictures_and_a_page(ran: tuple[dict[str, Any], Path]) -> None:
    _, out = ran
    assert (out / "result.json").is_file()
    assert (out / "cells.csv").is_file()
    assert (out / "report.html").is_file()
    assert len(list((out / "images").rglob("seed0-*/*.png"))) == 4
    assert len(list((out / "pictures").glob("*.png"))) == 2


def test_report_writes_the_page_again(ran: tuple[dict[str, Any], Path]) -> None:
    _, out = ran
    (out / "report.html").unlink()
    done = segtrans("report", out, "--against", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"wrote {out / name}" for name in ("report.html", "pictures", "figures")]
    assert 'id="against"' in (out / "report.html").read_text(encoding="utf-8")
    assert segtrans("report", out / "pictures").returncode == 4


def test_attack_on_a_single_photograph(photo: Path, tmp_path: Path) -> None:
    done = segtrans("attack", photo, "-s", MODEL, "-a", "mi", "--iterations", "2", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "mi" in done.stdout
    assert list((tmp_path / "out" / "images").rglob("seed0-*/cat*.png"))


def test_configuration_file_and_overrides(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"surrogates: [{MODEL}]\nattacks: [mi, di]\niterations: 2\nlimit: 1\n")
    done = segtrans(
        "run", config, "--attack", "noise", "-o", f"out={tmp_path / 'run'}", "-o", "data=photos?side=64", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert [c["attack"] for c in json.loads(done.stdout)["cells"]] == ["noise"]


@pytest.mark.parametrize(("surrogate", "evaluations"), [(MODEL, 20), (f"loss:{MODEL},{MODEL}", 40)])
def test_dry_run_resolves_and_does_nothing(surrogate: str, evaluations: int, tmp_path: Path) -> None:
    done = segtrans("run", "-s", surrogate, "-a", "mi", "--limit", "2", "--out", tmp_path / "run", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"{evaluations} gradient evaluations" in done.stderr
    assert not (tmp_path / "run").exists()


def test_failed_images_give_exit_code_3_and_keep_the_rest(photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(photo.read_bytes())
    (folder / "bad.png").write_bytes(photo.read_bytes()[:500])
    out = tmp_path / "run"
    done = segtrans("run", "-s", MODEL, "-a", "noise", "--data", f"folder:{folder}", "--out", out, "--json")
    assert done.returncode == 3, done.stderr
    assert "bad.png" in done.stderr
    assert json.loads(done.stdout)["cells"][0]["images"] == 1
    assert (out / "result.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "-s", "zoo:voc/pspnet-mobilenetv3"], 2, ["unknown zoo model", "did you mean voc/pspnet-mobilenetv3s"]),
        (["run", "-s", MODEL, "-a", "segtran"], 2, ["unknown attack", "did you mean segtrans"]),
        (["run", "-s", MODEL, "-a", "mi(decya=1)"], 2, ["setting of mi", "decya"]),
        (["run", "-s", MODEL, "--data", "vok:x"], 2, ["unknown data set", "did you mean voc"]),
        (["run", "-s", MODEL, "--eps", "8"], 2, ["eps is 8", "write 8/255"]),
        (["run", "-s", MODEL, "--data", "voc:nowhere"], 4, ["nowhere", "PASCAL VOC"]),
        (["run"], 2, ["surrogates"]),
        (["run", "nowhere.yaml"], 4, ["nowhere.yaml"]),
        (["run", "-s", MODEL, "-o", "atacks=mi"], 2, ["atacks", "did you mean attacks"]),
        (["run", "-s", MODEL, "--device", "cuda:99"], 4, ["cuda:99"]),
        (["run", "-s", MODEL, "-o", "a=[1"], 2, ["'[1'", "YAML"]),
        (["run", "-s", MODEL, "--out", "/dev/null/x"], 2, ["/dev/null is a file"]),
        (["run", "-s", MODEL, "-a", "momentum(decay='x')"], 2, ["Momentum decay is 'x'"]),
        (["zoo", "verify", "--data", "photos"], 2, ["no card", "photos"]),
        (["attack", "nowhere.jpg", "-s", MODEL], 4, ["nowhere.jpg", "no such file"]),
        (["list", "atacks"], 2, ["did you mean attacks"]),
    ],
)
def test_errors_are_one_sentence_with_a_code(
    arguments: list[str],
    code: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["segtrans", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    out, errors = capsys.readouterr()
    assert done.value.code == code, errors
    assert out == ""
    assert len(errors.strip().splitlines()) == 1
    for word in words:
        assert word in errors


def test_errors_leave_the_process_without_a_traceback(tmp_path: Path) -> None:
    done = segtrans("run", "-s", MODEL, "--eps", "8", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: eps is 8")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("what", ["attacks", "parts", "models", "datasets"])
def test_listings_are_the_same_for_people_and_machines(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["segtrans", "list", what, *options])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    rows = json.loads(listed("--json"))
    table = listed()
    assert rows
    for row in rows:
        assert row["name"] in table
    if what == "attacks":
        costs = {row["name"]: (row["gradients per iteration"], row["preparation"]) for row in rows}
        assert (costs["noise"], costs["vmi"], costs["fia"]) == ((0, 0), (21, 0), (1, 30))


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_help_teaches_by_example(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["segtrans", *path.split(), "--help"])
    with pytest.raises(SystemExit) as done:
        main()
    text = capsys.readouterr().out
    assert done.value.code == 0
    assert not any(word in text for word in ("list[", "<int>", "rich"))
    _, _, examples = text.replace("\\\n", "").partition("Example")
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    assert 1 <= len(lines) <= 2
    for line in lines:
        # Redirections are the shell's; everything else must be what the command takes.
        start, *words = shlex.split(line.partition(" >")[0])
        assert (start, " ".join(words[: len(path.split())])) == ("segtrans", path)
        COMMANDS[path].make_context(path, words[len(path.split()) :])


def test_options_are_shown_in_groups(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["segtrans", "run", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    places = [text.index(word) for word in ("Arguments:", "What is run:", "--surrogate", "How strong", "--eps",
              "What runs it:", "--workers", "What comes out:", "--json", "Options:", "--help")]  # fmt: skip
    assert places == sorted(places)


def test_attack_takes_no_data_set_beside_its_photographs(photo: Path) -> None:
    done = segtrans("attack", photo, "-s", MODEL, "-o", "data=photos")
    assert done.returncode == 2
    assert "data is photos; segtrans attack takes photographs" in done.stderr


def test_a_folder_may_have_brackets_in_its_name(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "r[" / "v2]"
    done = segtrans("attack", photo, "-s", MODEL, "-a", "noise", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"wrote {out / 'report.html'}" in done.stderr


def test_attack_takes_the_options_of_run() -> None:
    run, attack = ({option for param in COMMANDS[name].params for option in param.opts} for name in ("run", "attack"))
    assert run - attack == {"config", "--data", "--limit"}
    assert attack - run == {"images"}


def test_attack_resolves_what_run_resolves(photo: Path, tmp_path: Path) -> None:
    done = segtrans(
        "attack", photo, "-s", MODEL, "-a", "mi", "-a", "linf(eps=4/255) + pgd(iterations=5)", "--batch", "2",
        "--workers", "2", "--iterations", "3", "-o", "seeds=[0, 1]", "--out", tmp_path / "x", "--dry-run", "--json",
    )  # fmt: skip
    # mi draws nothing, so it is made once for both seeds.
    assert (done.returncode, json.loads(done.stdout)) == (0, {"units": 3, "images": 1, "gradient_evaluations": 13})
    assert done.stderr == ""
    assert not (tmp_path / "x").exists()


def test_quiet_says_nothing_and_json_is_one_document(ran: tuple[dict[str, Any], Path]) -> None:
    """The run again, which is all there, and its page."""
    document, out = ran
    again = [*RUN, "--out", out]
    done = segtrans(*again, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = segtrans(*again, "--quiet", "--json")
    assert (done.returncode, json.loads(done.stdout)["cells"], done.stderr) == (0, document["cells"], "")
    done = segtrans(*again, "--dry-run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = segtrans("report", out, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = segtrans("report", out, "--json")
    assert json.loads(done.stdout) == {"wrote": [str(out / name) for name in ("report.html", "pictures", "figures")]}
    assert done.stderr == ""


def test_an_encoding_without_our_signs_and_a_closed_pipe_take_no_page_away(ran: tuple[dict[str, Any], Path]) -> None:
    document, out = ran
    page = out / "report.html"
    for options, encoding in (([], "ascii"), (["--json"], "ascii"), (["--json"], "latin-1")):
        page.unlink()
        done = segtrans(*RUN, "--out", out, *options, PYTHONIOENCODING=encoding)
        assert (done.returncode, page.is_file()) == (0, True), done.stderr
        assert not options or json.loads(done.stdout)["summary"] == document["summary"]
    page.unlink()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command_line(*RUN, "--out", out), stdout=writer, stderr=subprocess.PIPE, timeout=300, check=False
    )
    os.close(writer)
    assert (done.returncode, page.is_file()) == (1, True), done.stderr


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("what", ["attacks", "parts", "models", "datasets"])
def test_listings_fit_into_terminals_of_any_width(
    what: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "argv", ["segtrans", "list", what])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert "\x1b" not in text
    monkeypatch.setattr(sys, "argv", ["segtrans", "list", what, "--json"])
    with pytest.raises(SystemExit):
        main()
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    # A name that was folded would be hard to read, and to copy; one that is too long has a line of its own.
    assert [name for name in names if name not in text] == []
    alone = {name + ending for name in names if len(name) >= width for ending in ("", ":")}
    assert max(len(line) for line in text.splitlines() if line not in alone) <= width


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("list", "models")])
def test_nothing_is_coloured_where_colours_are_not_wanted(arguments: tuple[str, ...]) -> None:
    done = segtrans(*arguments, COLUMNS="40", NO_COLOR="1", FORCE_COLOR="1", TERM="xterm-256color")
    assert done.returncode == 0
    assert not re.search(r"\x1b\[[0-9;]*[3-4][0-9]m", done.stdout)


def test_the_schema_is_printed() -> None:
    done = segtrans("schema")
    assert json.loads(done.stdout)["properties"]["eps"]["description"].startswith("Budget of L-inf attacks")
    assert done.stderr == ""


def test_help_tells_the_configurations_defaults() -> None:
    options = {
        param.name: param.help or "" for name, command in commands() if name == "run" for param in command.params
    }
    told = 0
    for key, field in RunConfig.model_fields.items():
        value = field.default[0] if isinstance(field.default, tuple) and field.default else field.default
        if key in options and isinstance(value, str | int | float | Path):
            text = f"{value:g}" if isinstance(value, float) else str(value)
            assert re.search(rf"default: {re.escape(text)}(,|\.$)", options[key]), key
            told += 1
    assert told >= 9


def test_options_keep_their_names_whatever_typer_makes_of_metavars() -> None:
    # Of 0.26 and 0.27, a metavar that is the name in capitals becomes the name.
    commands = [*app.registered_commands, *zoo_app.registered_commands]
    options = [
        (name, parameter.default)
        for command in commands
        if command.callback
        for name, parameter in get_params_from_function(command.callback).items()
        if isinstance(parameter.default, OptionInfo)
    ]
    alike = [option for name, option in options if (option.metavar or "").lower() == name]
    assert len(alike) > 5
    assert all(option.param_decls for option in alike)
