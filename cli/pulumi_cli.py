"""The pulumi command, as the commands of this project run it."""

import os
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


class PulumiError(Exception):
    """pulumi is not there, or failed; the text is what it said."""


def run(
    *arguments: str, stack: str, project: Path = PROJECT, streaming: bool = False
) -> "subprocess.CompletedProcess[str]":
    """pulumi with these arguments, on a stack of a project.

    streaming: a preview as JSON prints its events, one a line; what a refresh saw and a policy pack
    found is in these alone. Raises PulumiError if there is no pulumi.
    """
    more = {"PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"} if streaming else {}
    try:
        return subprocess.run(
            ["pulumi", *arguments, "--stack", stack, "--non-interactive", "--color=never"],
            cwd=project,
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise PulumiError(
            "there is no pulumi on PATH; install Pulumi, or, for a stack of the lab, run `make up`"
        ) from None


def output(*arguments: str, stack: str, project: Path = PROJECT) -> str:
    """What pulumi printed; raises PulumiError if it failed."""
    result = run(*arguments, stack=stack, project=project)
    if result.returncode:
        raise PulumiError(result.stderr.strip() or f"pulumi ended with {result.returncode}")
    return result.stdout
