"""`nordmesh kubeconfig`: a client certificate of the cluster for one person, with an end.

The key is made here and never leaves this machine. The administrator's credential of the stack
signs the certificate, and is not in what this command writes.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from cli import pulumi_cli
from cli.options import Stack
from cli.signing import Owner, issue
from components.manifests import kubeadm, people
from config import Access, StackConfig
from config.errors import NAMESPACE, NordmeshError
from config.load import read_stack
from config.people import CertificateName

EMERGENCY_HOURS = 8
_NAME: TypeAdapter[str] = TypeAdapter(CertificateName)


def command(
    name: Annotated[
        str, typer.Option("--for", help="The person, as in access.roles of the stack file.")
    ],
    stack: Stack = "",
    days: Annotated[
        int, typer.Option("--days", min=1, max=365, help="The days until the certificate ends.")
    ] = 30,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="GROUP",
            help="A group of access.roles that the certificate is in. Repeat it for each.",
        ),
    ] = None,
    emergency: Annotated[
        bool,
        typer.Option(
            "--emergency",
            help=f"All rights for {EMERGENCY_HOURS} hours; the audit log has the person's name.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write it to a file that only you can read."),
    ] = None,
) -> None:
    """Issue a client certificate for a person, and print or write a kubeconfig with it."""
    config = read_stack(pulumi_cli.project(), stack).usable()
    access = _access(config)
    for text in (name, *(group or ())):
        _check_name(text)
    if emergency:
        owner, roles = _in_emergency(name, group or []), ["all rights"]
    else:
        owner = Owner(name=name, groups=group or [], lifetime=timedelta(days=days))
        roles = _roles(access, owner)
    administrator = pulumi_cli.kubeconfig(stack)
    from components.gates.api import connect  # 0.3 s, which a refused command need not take

    with connect(administrator) as api:
        issued = issue(api, owner)
    text = kubeadm.personal_kubeconfig(
        administrator,
        user=owner.name,
        cluster=config.kubernetes.cluster_name,
        certificate=issued.certificate,
        key=issued.key,
    )
    if output is None:
        sys.stdout.write(text)
    else:
        write(output, text)
    print(
        f"{owner.name} has {' and '.join(roles)} until {issued.ends:%Y-%m-%d %H:%M} UTC"
        + (f"; written to {output}" if output else ""),
        file=sys.stderr,
    )


def _access(config: StackConfig) -> Access:
    if config.access is None:
        raise NordmeshError(
            "the stack file has no section access",
            code="access-not-configured",
            path=f"{NAMESPACE}:access",
            why="nobody has a role, so the certificate could do nothing",
            fix="add the section with the roles of your people, and run `pulumi up`; see "
            "docs/people.md",
        )
    return config.access


def _check_name(name: str) -> None:
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        refused = error.errors()[0]["ctx"]["error"]
        raise NordmeshError(
            refused.what, code=refused.code, why=refused.why, fix=refused.fix
        ) from None


def _in_emergency(name: str, groups: Sequence[str]) -> Owner:
    if groups:
        raise NordmeshError(
            "--emergency gives all rights, so --group would have no effect",
            code="kubeconfig-emergency-group",
            fix="remove --group, or --emergency",
        )
    return Owner(
        name=f"{people.EMERGENCY_GROUP}:{name}",
        groups=[people.EMERGENCY_GROUP],
        lifetime=timedelta(hours=EMERGENCY_HOURS),
    )


def _roles(access: Access, owner: Owner) -> list[str]:
    """The roles of a certificate; raises NordmeshError if it, or one of its groups, has none."""
    roles = people.certificate_roles(access, [owner.name], owner.groups)
    for group in owner.groups:
        if not people.certificate_roles(access, [], [group]):
            raise _without_role(group, f"the group {group}")
    if not roles:
        raise _without_role(owner.name, owner.name)
    return roles


def _without_role(name: str, who: str) -> NordmeshError:
    return NordmeshError(
        f"{who} has no role",
        code="kubeconfig-no-role",
        path=f"{NAMESPACE}:access.roles",
        why="a certificate without a role allows nothing",
        fix=f"correct the name, or add {name} to a role of access.roles and run `pulumi up`",
    )


def write(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step; raises NordmeshError."""
    try:
        # mkstemp makes it with mode 600.
        handle, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
            Path(made).replace(path)
        except BaseException:
            Path(made).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise NordmeshError(
            f"the kubeconfig cannot be written: {error.strerror}",
            code="kubeconfig-not-written",
            path=str(path),
            why="the certificate was issued, but its key was deleted",
            fix="pass a path in a directory that exists and that you may write to",
        ) from None
