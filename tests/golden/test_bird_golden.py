"""What is rendered for BIRD, as whole files that people can read, each one taken by the real `bird -p`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from felix.dataplane.bird.context import build_context
from felix.dataplane.bird.render import find_digest, render_bird
from felix.dataplane.bird.types import BirdOptions, Secret
from tests.conftest import GOLDEN, CheckGolden
from tests.support.bird import read_inputs

CASES = sorted((Path(__file__).parent / "bird").glob("*.yaml"))
OPTIONS = BirdOptions(secret_by_key={("bgp", "tor"): Secret("correct horse")})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_bird_configuration_of_known_inputs_is_as_expected(case: Path, check_golden: CheckGolden) -> None:
    built = build_context(read_inputs(case), OPTIONS)
    text = render_bird(built.context)

    check_golden(f"bird/{case.stem}.conf", text)
    check_golden(f"bird/{case.stem}.problems", "".join(f"{problem}\n" for problem in built.problems))
    assert len(find_digest(text)) == 16


@pytest.mark.fv
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_bird_configuration_of_known_inputs_is_taken_by_bird(case: Path) -> None:
    command = ["bird", "-p", "-c", str(GOLDEN / "bird" / f"{case.stem}.conf")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr + done.stdout
