"""Secret values to search for in what programs keep, plain and in base64."""

import base64
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Needles:
    """Values to search for, by name."""

    values: Mapping[str, str]

    @property
    def texts(self) -> dict[bytes, str]:
        """The name of each value by its text, and by what base64 makes of it at any offset."""
        found = {}
        for name, value in self.values.items():
            plain = value.encode()
            found[plain] = name
            for offset in range(3):
                text = base64.b64encode(bytes(offset) + plain)
                # Characters that also depend on the bytes before and after the value.
                end = -4 if (offset + len(plain)) % 3 else len(text)
                found[text[4 if offset else 0 : end]] = name
        return found

    def names_in(self, matches: bytes) -> Counter[str]:
        """How often each value is in lines that grep has matched."""
        texts = self.texts
        return Counter(texts[line] for line in matches.splitlines())

    def search(self, *paths: Path, ignored: Iterable[str] = ()) -> dict[str, set[str]]:
        """The names of values by the file that has them, in files and in directories."""
        options = [f"--exclude-dir={name}" for name in ignored]
        command = ["grep", "-raHosZF", "--devices=skip", "--file=-", *options, "--"]
        result = subprocess.run(
            [*command, *(str(path) for path in paths)],
            input=b"\n".join(self.texts),
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
        found: dict[str, set[str]] = {}
        texts = self.texts
        for line in result.stdout.splitlines():
            path, _, text = line.partition(b"\0")
            found.setdefault(os.fsdecode(path), set()).add(texts[text])
        return found
