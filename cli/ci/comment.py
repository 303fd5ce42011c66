"""`nordmesh ci comment`: a summary as a comment on the pull request, in place of the last one."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from config.errors import NordmeshError

_PAGE = 100
_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Forge:
    """The address of a pull request's comments, and how to write them."""

    comments: str
    """The address of the list of comments."""
    edit: str
    """The address of one comment, with {id}."""
    edit_method: str
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Forge":
        """The forge that the environment names; raises NordmeshError."""
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
            raise NordmeshError(
                f"the environment has no {missing.args[0]}",
                code="no-forge",
                fix="set it; `nordmesh ci comment --help` lists what is needed",
            ) from None

    def put(self, mark: str, text: str) -> str:
        """Write the text as the comment with the mark; return "written" or "updated"."""
        content = {"body": f"{mark}\n{text}"}
        for comment in self._existing():
            if str(comment.get("body", "")).startswith(mark) and _is_ours(comment):
                self._send(self.edit_method, self.edit.format(id=comment["id"]), content)
                return "updated"
        self._send("POST", self.comments, content)
        return "written"

    def _existing(self) -> Iterator[dict[str, Any]]:
        page = 1
        while comments := self._send("GET", f"{self.comments}?per_page={_PAGE}&page={page}"):
            yield from comments
            if len(comments) < _PAGE:
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
            raise NordmeshError(
                f"{method} {url} answers {error.code}",
                code="comment-refused",
                fix="give the token permission to write comments",
            ) from None
        except (OSError, ValueError) as error:
            raise NordmeshError(f"{method} {url}: {error}", code="comment-failed") from None


def _is_ours(comment: Mapping[str, Any]) -> bool:
    """Whether a program wrote a comment: on GitHub, anyone could write the mark."""
    return "user" not in comment or comment["user"].get("type") == "Bot"


def command(
    stack: Annotated[str, typer.Argument(help="The stack that the summary is about.")],
    file: Annotated[Path, typer.Argument(help="The summary, in Markdown.", exists=True)],
) -> None:
    """Put a summary on the pull request, in place of the last one.

    Each stack has one comment, known by an invisible mark. On GitHub it needs GITHUB_TOKEN,
    GITHUB_REPOSITORY, GITHUB_API_URL and PULL_REQUEST in the environment; on GitLab GITLAB_TOKEN,
    CI_API_V4_URL, CI_PROJECT_ID and CI_MERGE_REQUEST_IID.
    """
    mark = f"<!-- nordmesh preview of {stack} -->"
    result = Forge.of(os.environ).put(mark, file.read_text())
    print(f"comment on {stack} {result}")
