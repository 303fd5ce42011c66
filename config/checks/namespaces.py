"""Whether a namespace that some other place of the stack file names has sidecars."""

from collections.abc import Iterator

from config import Mesh
from config.errors import KeyPath, Problem, nearest


def check_injected(
    path: KeyPath,
    namespace: str,
    mesh: Mesh | None,
    *,
    unknown: str,
    bare: str,
    written: str = "{}",
    otherwise: str = "",
) -> Iterator[Problem]:
    """The problem of a namespace that is not in the mesh, or is there without sidecars.

    unknown, bare: why either matters. written: how the right namespace is written at the path.
    otherwise: what else would mend missing sidecars.
    """
    namespaces = mesh.namespaces if mesh is not None else {}
    declared = ("mesh", "namespaces", namespace)
    if namespace not in namespaces:
        guess = nearest(namespace, namespaces)
        yield Problem(
            path=path,
            what=f"the namespace {namespace} is not in mesh.namespaces",
            why=unknown,
            fix=(f"write {written.format(guess)}, or " if guess else "")
            + f"add {namespace}: {{injection: true}} to mesh.namespaces",
            about=(declared,),
        )
    elif not namespaces[namespace].injection:
        yield Problem(
            path=path,
            what=f"the namespace {namespace} has injection: false",
            why=bare,
            fix=f"write injection: true at mesh.namespaces.{namespace}{otherwise}",
            about=((*declared, "injection"),),
        )
