"""examples/deploy: files that their tools can read, command lines that ours can, and nothing that they forget."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from commandbus.cli import main

DEPLOY = Path(__file__).resolve().parents[2] / "examples" / "deploy"
SHOP = DEPLOY.parent / "flask_style"
UNIT = DEPLOY / "systemd" / "shop-worker.service"
IN_THE_IMAGE = {"migrations": SHOP / "migrations"}
MOUNTED = {"/console-users": DEPLOY / "Dockerfile"}  # any file that is there will do for the parser


def compose() -> dict[str, Any]:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:\?[^}]*\}", "secret", text))
    return document


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / "shop.yaml").read_text(encoding="utf-8")))


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def pods() -> Iterator[dict[str, Any]]:
    for manifest in manifests():
        if manifest["kind"] in ("Job", "Deployment"):
            yield manifest["spec"]["template"]


def command_lines() -> Iterator[list[str]]:
    for service in compose()["services"].values():
        yield service["command"]
    for pod in pods():
        for container in pod["spec"]["containers"]:
            yield container["command"]
    yield shlex.split(unit()["Service"]["ExecStart"])
    yield next(
        shlex.split(line[4:].translate(str.maketrans("[],", "   "))) for line in dockerfile() if line[:4] == "CMD "
    )


def dockerfile() -> list[str]:
    return (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()


def parse(words: Sequence[str]) -> click.Context:
    """Read a command line as the command would, with what is in the image in its place here."""
    known = {**IN_THE_IMAGE, **MOUNTED}
    return main.make_context("commandbus", [str(known.get(word, word)) for word in words])


def test_every_command_line_is_one_of_ours() -> None:
    told = []
    for line in command_lines():
        words = [str(word) for word in line]
        if words[:3] == ["python", "-m", "commandbus"] or Path(words[0]).name == "commandbus":
            context = parse(words[3 if words[0] == "python" else 1 :])
            name, command, rest = main.resolve_command(context, [*context._protected_args, *context.args])
            assert name is not None
            assert command is not None
            command.make_context(name, rest, parent=context)
            told.append(name)
        elif words[0] == "python":
            assert (SHOP / words[1]).is_file()
        else:
            assert words[0] == "postgres"
    assert sorted(told) == ["console", "migrate", "migrate", *["worker"] * 4]


def test_an_option_that_is_none_would_be_found() -> None:
    context = parse(["worker", "shop:app", "--procesess", "4"])
    name, command, rest = main.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None
    with pytest.raises(click.NoSuchOption):
        command.make_context(str(name), rest, parent=context)


def test_compose_refers_only_to_what_it_has_and_publishes_on_this_machine_only() -> None:
    document = compose()
    services = document["services"]
    assert {"postgres", "migrate", "application", "worker"} <= services.keys()
    for service in services.values():
        assert set(service.get("depends_on", ())) <= services.keys()
        named = [volume.partition(":")[0] for volume in service.get("volumes", ())]
        assert {name for name in named if name[0] not in "./"} <= document["volumes"].keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert "image" in service
        if "build" in service:
            context = (DEPLOY / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]) == DEPLOY / "Dockerfile"
    assert services["worker"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


def test_kubernetes_selects_what_it_makes() -> None:
    kinds = {"Job": "batch/v1", "Deployment": "apps/v1", "PodDisruptionBudget": "policy/v1"}
    labels = {}
    for manifest in manifests():
        assert manifest["apiVersion"] == kinds[manifest["kind"]]
        labels[manifest["kind"]] = manifest["spec"].get("template", {}).get("metadata", {}).get("labels")
        if "selector" in manifest["spec"]:
            assert manifest["spec"]["selector"]["matchLabels"] == labels["Deployment"]
    for pod in pods():
        for container in pod["spec"]["containers"]:
            assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "shop-database", "key": "dsn"}
            assert container["securityContext"]["runAsNonRoot"] is True
            assert container["image"] == compose()["services"]["worker"]["image"]


def test_the_image_copies_what_is_there() -> None:
    copied = [line.split()[1] for line in dockerfile() if line.startswith("COPY ")]
    assert copied == ["dist/", "examples/flask_style/"]
    assert [f"!{folder}" for folder in copied] == (DEPLOY / "Dockerfile.dockerignore").read_text().split()[1:]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_systemd_can_read_the_unit(tmp_path: Path) -> None:
    program = unit()["Service"]["ExecStart"].split()[0]
    readable = tmp_path / UNIT.name
    readable.write_text(UNIT.read_text().replace(program, "/bin/true"))  # it looks whether the program is there
    line = ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", str(readable)]
    run = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_COLORS": "0"})
    assert (run.returncode, [told for told in run.stderr.splitlines() if UNIT.name in told]) == (0, [])

    readable.write_text(readable.read_text().replace("TimeoutStopSec=", "TimeoutStopSeconds="))
    run = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "TimeoutStopSeconds" in run.stderr
