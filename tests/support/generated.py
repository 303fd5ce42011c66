"""Random sections of a stack file, generated from the models, so new fields are included.

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
    """Draw a number of values: the same ones in every run and for every test."""
    return [draw(Random(seed)) for seed in range(count)]  # noqa: S311 (no secrets)


def just(value: Any) -> Draw[Any]:
    """Draw always the same value."""
    return lambda _: value


def pick(*options: Any) -> Draw[Any]:
    """Draw one of the values."""
    return lambda random: random.choice(options)


def one_of(*draws: Draw[Any]) -> Draw[Any]:
    """Draw from one of the generators."""
    return lambda random: random.choice(draws)(random)


def whole(least: int, most: int) -> Draw[int]:
    """Draw an integer; the minimum and the maximum are more frequent than other values."""
    return lambda random: random.choice((least, most, *[random.randint(least, most)] * 4))


def text(alphabet: str) -> Draw[str]:
    """Draw one to eight characters."""
    return lambda random: "".join(random.choices(alphabet, k=random.randint(1, 8)))


def applied(function: Callable[..., _T], *draws: Draw[Any]) -> Draw[_T]:
    """Apply a function to one value of each generator."""
    return lambda random: function(*[draw(random) for draw in draws])


def listed(draw: Draw[Any], *, least: int = 0, most: int = 3) -> Draw[list[Any]]:
    """Draw a list without duplicates."""

    def entries(random: Random) -> list[Any]:
        values: list[Any] = []
        for value in [draw(random) for _ in range(random.randint(least, most))]:
            if value not in values:
                values.append(value)
        return values

    return entries


def named(keys: Draw[Any], values: Draw[_T], *, most: int = 3) -> Draw[dict[Any, _T]]:
    """Draw a mapping with at most this number of entries."""
    return lambda random: {keys(random): values(random) for _ in range(random.randint(0, most))}


def mapping(required: dict[str, Draw[Any]] | None = None, **optional: Draw[Any]) -> Draw[Values]:
    """Draw a mapping with all required keys and few, half or most of the optional ones."""

    def keys(random: Random) -> Values:
        share = random.choice((0.2, 0.5, 0.8))
        chosen = {key: draw for key, draw in optional.items() if random.random() < share}
        return {key: draw(random) for key, draw in ((required or {}) | chosen).items()}

    return keys


def section(model: type[Section], scalars: Scalars, **given: Draw[Any]) -> Draw[Values]:
    """Draw a section of a stack file; a field with a default may be absent.

    given: generators for single fields, by their key in the file.
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
    """Return a generator for an annotation; raise LookupError if it has none."""
    if hint in scalars:
        return scalars[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return of(arguments[0], scalars)
    if origin is Literal:
        return pick(*arguments)
    if origin in (Union, UnionType):
        return one_of(
            *(of(argument, scalars) for argument in arguments if argument is not NoneType)
        )
    if origin is dict:
        keys, values = (of(argument, scalars) for argument in arguments)
        return named(keys, values)
    if origin in (list, tuple):
        return listed(of(arguments[0], scalars))
    if hint is bool:
        return pick(True, False)
    if isinstance(hint, type) and issubclass(hint, Section):
        return section(hint, scalars)
    raise LookupError(f"how is a {hint} generated? name it in the test's scalars")


def mostly(draw: Draw[Values], consistent: Callable[[Values], Values]) -> Draw[Values]:
    """Draw values without contradictions, except that one in eight is not corrected."""

    def values(random: Random) -> Values:
        drawn = draw(random)
        return drawn if random.random() < 1 / 8 else consistent(drawn)

    return values
