"""The command line on the emulated cloud: greeting, the documented client, logs, and nothing left after clean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from overcast.cli import main
from overcast.place import CloudPlace

pytestmark = pytest.mark.e2e

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cloud.md"
ON = ("--stage", "local")


@pytest.fixture
def stage(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> CloudPlace:
    for name, value in deployment.variables.items():
        monkeypatch.setenv(name, value)
    return CloudPlace.at("local")


def test_greeted_used_as_documented_and_cleaned(stage: CloudPlace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hello", *ON]) == 0
    assert "solved in" in capsys.readouterr().out
    (code,) = re.findall(r"^```py\n(.*?)^```$", DOCUMENT.read_text(), flags=re.MULTILINE | re.DOTALL)
    exec(compile(code, str(DOCUMENT), "exec"), {})
    quoted, *rows, _ = capsys.readouterr().out.splitlines()
    assert float(quoted) > 0
    assert rows[0].split() == ["0", "1.0"]
    for options, function in (((), "driver"), (("--workers",), "worker")):
        assert main(["jobs", "logs", "latest", *options, *ON]) == 0
        said = capsys.readouterr().out
        assert "REPORT RequestId" in said, function
    job = stage.job("latest").id
    assert main(["jobs", "clean", job, *ON]) == 0
    assert stage.storage.list(f"jobs/{job}") == []
    assert main(["jobs", "show", job, *ON]) == 2


def test_a_stage_is_found_by_the_outputs_of_its_stack(
    deployment: Any, stage: CloudPlace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from overcast import place

    assert place._outputs("local")["ApiLambdaFunctionUrl"] == deployment.stack.api
    assert place._outputs("local")["Bucket"] == stage.storage.bucket
    monkeypatch.delenv("OVERCAST_API")
    assert main(["jobs", "--stage", "absent"]) == 2
    assert (
        capsys.readouterr().err
        == "overcast: there is no stage 'absent' here: deploy it with `overcast deploy absent`\n"
    )
