"""Random sections of a stack file, made from the models: a new field is generated as it comes."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from config import Section

Values = dict[str, Any]
Scalars = Mapping[Any, SearchStrategy[Any]]
"""Strategies by annotation, for what a type alone does not tell: a port, a host, a duration."""


def section(
    model: type[Section], scalars: Scalars, **given: SearchStrategy[Any]
) -> SearchStrategy[Values]:
    """Values of a section as a stack file has them; a field with a default may be absent.

    given: the strategies of single fields, by their key in the file.
    """
    hints = get_type_hints(model, include_extras=True)
    required: dict[str, SearchStrategy[Any]] = {}
    optional: dict[str, SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        values = given[key] if key in given else of(hints[name], scalars)
        (required if field.is_required() else optional)[key] = values
    return st.fixed_dictionaries(required, optional=optional)


def of(hint: Any, scalars: Scalars) -> SearchStrategy[Any]:
    """Values of an annotation; LookupError for one that neither it nor `scalars` tells."""
    if hint in scalars:
        return scalars[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return of(arguments[0], scalars)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of(*(of(one, scalars) for one in arguments if one is not NoneType))
    if origin is dict:
        keys, values = (of(one, scalars) for one in arguments)
        return st.dictionaries(keys, values, max_size=3)
    if origin in (list, tuple):
        return st.lists(of(arguments[0], scalars), max_size=3)
    if hint is bool:
        return st.booleans()
    if isinstance(hint, type) and issubclass(hint, Section):
        return section(hint, scalars)
    raise LookupError(f"how is a {hint} generated? name it in the test's scalars")
