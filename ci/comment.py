"""`python -m ci.comment STACK FILE`: puts a summary on the pull request, in place of the last one.

There is one comment for each stack, known by a mark that nobody sees. On GitHub it takes
GITHUB_TOKEN, GITHUB_REPOSITORY, GITHUB_API_URL and PULL_REQUEST from the environment; on GitLab
GITLAB_TOKEN, CI_API_V4_URL, CI_PROJECT_ID and CI_MERGE_REQUEST_IID.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PAGE = 100
_SECONDS = 30


class Failed(Exception):
    """Why the comment could not be written; holds no token."""


@dataclass(frozen=True, kw_only=True)
class Forge:
    """Where comments of one pull request are, and how they are written."""

    comments: str
    """The address of the list of comments."""
    edit: str
    """The address of one comment, with {id}."""
    edit_method: str
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Forge":
        """The forge that the environment names; raises Failed."""
        try:
            if "GITHUB_REPOSITORY" in environment:
                api = environment.get("GITHUB_API_URL", "https://api.github.com")
                issues = f"{api}/repos/{environment['GITHUB_REPOSITORY']}/issues"
                return cls(
                    comments=f"{issues}/{environment['PULL_REQUEST']}/comments",
                    edit=f"{issues}/comments/{{id}}",
                    edit_method="PATCH",
                    headers={"Authorization": f"Bearer {environment['GITHUB_TOKEN']}"},
                )
            project = f"{environment['CI_API_V4_URL']}/projects/{environment['CI_PROJECT_ID']}"
            notes = f"{project}/merge_requests/{environment['CI_MERGE_REQUEST_IID']}/notes"
            return cls(
                comments=notes,
                edit=f"{notes}/{{id}}",
                edit_method="PUT",
                headers={"PRIVATE-TOKEN": environment["GITLAB_TOKEN"]},
            )
        except KeyError as missing:
            raise Failed(f"the environment has no {missing.args[0]}; see --help") from None

    def put(self, mark: str, text: str) -> str:
        """Write the text as the comment with the mark; says whether it is new."""
        content = {"body": f"{mark}\n{text}"}
        for comment in self._existing():
            if str(comment.get("body", "")).startswith(mark) and _is_ours(comment):
                self._send(self.edit_method, self.edit.format(id=comment["id"]), content)
                return "updated"
        self._send("POST", self.comments, content)
        return "written"

    def _existing(self) -> Iterator[dict[str, Any]]:
        page = 1
        while found := self._send("GET", f"{self.comments}?per_page={_PAGE}&page={page}"):
            yield from found
            if len(found) < _PAGE:
                return
            page += 1

    def _send(self, method: str, url: str, content: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310  the forge's own address
            url,
            method=method,
            data=None if content is None else json.dumps(content).encode(),
            headers={**self.headers, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {url} answers {error.code}; may the token comment?") from None
        except (OSError, ValueError) as error:
            raise Failed(f"{method} {url}: {error}") from None


def _is_ours(comment: Mapping[str, Any]) -> bool:
    """Whether a comment is a program's: on GitHub anybody could write the mark."""
    return "user" not in comment or comment["user"].get("type") == "Bot"


def main(arguments: list[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ci.comment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stack", help="the stack that the summary is of")
    parser.add_argument("file", type=Path, help="the summary, in Markdown")
    options = parser.parse_args(arguments)
    try:
        done = Forge.of(environment).put(
            f"<!-- nordmesh preview of {options.stack} -->", options.file.read_text()
        )
    except (Failed, OSError) as error:
        print(f"python -m ci.comment: {error}", file=sys.stderr)
        return 1
    print(f"comment on {options.stack} {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
