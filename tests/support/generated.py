"""Random sections of a stack file, made from the models: a new field is generated as it comes.

The seeds are fixed, so every run draws the same values. Hypothesis is deliberately not used: it
varies what it drew before and drops large examples, so two of three services had the same keys.
"""

from collections.abc import Callable, Mapping
from random import Random
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from config import Section

Values = dict[str, Any]
_T = TypeVar("_T")
Draw = Callable[[Random], _T]
"""Draws a value."""
Scalars = Mapping[Any, Draw[Any]]
"""Draws by annotation, for types that do not say what a value looks like: a host, a duration."""


def examples(draw: Draw[_T], count: int) -> list[_T]:
    """The first values that are drawn: the same ones in every run and for every test."""
    return [draw(Random(seed)) for seed in range(count)]  # noqa: S311 (no secrets)


def just(value: Any) -> Draw[Any]:
    """Always the one value."""
    return lambda _: value


def pick(*options: Any) -> Draw[Any]:
    """One of the values."""
    return lambda random: random.choice(options)


def one_of(*draws: Draw[Any]) -> Draw[Any]:
    """What one of the draws gives."""
    return lambda random: random.choice(draws)(random)


def whole(least: int, most: int) -> Draw[int]:
    """A whole number; the least and the greatest come more often than any other."""
    return lambda random: random.choice((least, most, *[random.randint(least, most)] * 4))


def text(alphabet: str) -> Draw[str]:
    """One to eight characters."""
    return lambda random: "".join(random.choices(alphabet, k=random.randint(1, 8)))


def applied(function: Callable[..., _T], *draws: Draw[Any]) -> Draw[_T]:
    """The function's result for one value of each draw."""
    return lambda random: function(*[draw(random) for draw in draws])


def listed(draw: Draw[Any], *, least: int = 0, most: int = 3) -> Draw[list[Any]]:
    """A list without an entry twice."""

    def entries(random: Random) -> list[Any]:
        values: list[Any] = []
        for value in [draw(random) for _ in range(random.randint(least, most))]:
            if value not in values:
                values.append(value)
        return values

    return entries


def named(keys: Draw[Any], values: Draw[_T], *, most: int = 3) -> Draw[dict[Any, _T]]:
    """A mapping of up to so many entries."""
    return lambda random: {keys(random): values(random) for _ in range(random.randint(0, most))}


def mapping(required: dict[str, Draw[Any]] | None = None, **optional: Draw[Any]) -> Draw[Values]:
    """A mapping with all of the required keys and few, half or most of the optional ones."""

    def keys(random: Random) -> Values:
        share = random.choice((0.2, 0.5, 0.8))
        chosen = {key: draw for key, draw in optional.items() if random.random() < share}
        return {key: draw(random) for key, draw in ((required or {}) | chosen).items()}

    return keys


def section(model: type[Section], scalars: Scalars, **given: Draw[Any]) -> Draw[Values]:
    """A section as a stack file has it; a field with a default may be absent.

    given: the draws of single fields, by their key in the file.
    """
    hints = get_type_hints(model, include_extras=True)
    required: dict[str, Draw[Any]] = {}
    optional: dict[str, Draw[Any]] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        draw = given[key] if key in given else of(hints[name], scalars)
        (required if field.is_required() else optional)[key] = draw
    return mapping(required, **optional)


def of(hint: Any, scalars: Scalars) -> Draw[Any]:
    """A value of an annotation; LookupError for one that is not in `scalars` and has no parts."""
    if hint in scalars:
        return scalars[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return of(arguments[0], scalars)
    if origin is Literal:
        return pick(*arguments)
    if origin in (Union, UnionType):
        return one_of(*(of(one, scalars) for one in arguments if one is not NoneType))
    if origin is dict:
        keys, values = (of(one, scalars) for one in arguments)
        return named(keys, values)
    if origin in (list, tuple):
        return listed(of(arguments[0], scalars))
    if hint is bool:
        return pick(True, False)
    if isinstance(hint, type) and issubclass(hint, Section):
        return section(hint, scalars)
    raise LookupError(f"how is a {hint} generated? name it in the test's scalars")


def mostly(draw: Draw[Values], consistent: Callable[[Values], Values]) -> Draw[Values]:
    """Values without contradictions; one in eight is left as it was drawn."""

    def values(random: Random) -> Values:
        drawn = draw(random)
        return drawn if random.random() < 1 / 8 else consistent(drawn)

    return values
