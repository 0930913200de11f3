"""
The filters of Ray's State API, turned into conditions of the store: which rows pass, and what Ray refuses.

Ray filters twice. Its GCS gets the keys that it knows, spelt exactly (`StateDataSourceClient`,
ray/util/state/state_manager.py). `do_filter` (ray/dashboard/state_api_utils.py) then goes through the rows that came
back, for keys in any case. Both are those of Ray 2.60, with all that they compare oddly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from starlette.exceptions import HTTPException

from raytrail.entities import Column, entity
from raytrail.errors import ConfigError
from raytrail.fold.layout import find
from raytrail.store import Filter, Snapshot

if TYPE_CHECKING:
    from raytrail.server.ray.resources import Field, Resource

Op = Literal["=", "!="]


class Refusal(NamedTuple):
    """What Ray refuses as soon as it comes to a row that it cannot compare, and answers where it comes to none."""

    where: tuple[Filter, ...]
    """The rows that it cannot compare."""
    message: str


class Filters(NamedTuple):
    """Which rows pass."""

    where: tuple[Filter, ...]
    """The conditions that all must hold."""
    counted: tuple[Filter, ...]
    """Those of `where` that the GCS applies, so that ``total`` counts only the rows that pass."""
    returned: tuple[tuple[Filter, ...], ...]
    """
    Those that the GCS applies, of nodes and workers, so that ``num_after_truncation`` counts only what passes: any of
    these alternatives. It returns the nodes of all ids and names that are asked for. Empty: it returns all.
    """
    empty: bool
    """No row can pass."""
    refusals: tuple[Refusal, ...]

    def count_returned(self, snapshot: Snapshot, noun: str, key: str, total: int) -> int:
        """Return how many rows the GCS returns, of so many."""
        if not self.returned:
            return total
        if len(self.returned) == 1:
            return snapshot.count(noun, (*self.counted, *self.returned[0]))
        rows = (
            snapshot.rows(noun, columns=[key], where=(*self.counted, *alternative)) for alternative in self.returned
        )
        return len({row[key] for some in rows for row in some})

    def refuse(self, snapshot: Snapshot, noun: str) -> None:
        """
        Look whether Ray would come to a row that it cannot compare.

        Raises:
            ConfigError: It would.
        """
        for refusal in self.refusals:
            if snapshot.count(noun, refusal.where):
                raise ConfigError(refusal.message)


class _Term(NamedTuple):
    """What one filter says of a row."""

    conditions: tuple[Filter, ...] = ()
    """All must hold."""
    empty: bool = False
    """No row passes."""
    refused: str = ""
    """Why Ray refuses to compare a row of which the column is known."""


_ALL, _NONE = _Term(), _Term(empty=True)


def read_filters(resource: Resource, params: Mapping[str, Sequence[str]], counted: Sequence[Filter]) -> Filters:
    """
    Read the filters of a request.

    Args:
        resource: Whose rows.
        params: The query of the URL: `filter_keys`, `filter_predicates` and `filter_values`.
        counted: What the GCS looks for in any case.

    Raises:
        ConfigError: A filter is wrong whatever rows there are: an unknown predicate, not an id, not a number.
        HTTPException: There is not one value for each key, at which Ray fails.
    """
    reading = _Reading(resource, counted)
    for key, op, text in list(_asked(params)):
        reading.add(key, op, text)
    return reading.filters()


class _Reading:
    """Filters as they are read, one after the other: what a row is not compared with, as an earlier one drops it."""

    def __init__(self, resource: Resource, counted: Sequence[Filter]) -> None:
        self._resource = resource
        self._where = [*counted]
        self._counted = [*counted]
        self._returned: list[Filter] = []
        self._selected: list[tuple[Filter, ...]] = []
        self._refusals: list[Refusal] = []
        self._empty = False

    def add(self, key: str, op: Op, text: str) -> None:
        field = self._resource.find(key)
        if field is None:
            self._refusals.append(Refusal(tuple(self._where), _unknown(self._resource, key)))
            self._empty = True
            return
        term = _term(self._resource, field, op, text, exact=key == field.name)
        if term.refused:
            known = [] if field.default is not None else [Filter(field.stored, "!=", None)]
            self._refusals.append(Refusal((*self._where, *known), term.refused))
        self._where.extend(term.conditions)
        self._empty = self._empty or term.empty
        if key == field.name:
            self._add_for_gcs(field, op, text, term)

    def _add_for_gcs(self, field: Field, op: Op, text: str, term: _Term) -> None:
        if field.gcs == "both":
            self._counted.extend(term.conditions)
        cut = _cut_by_gcs(field, op, text, term)
        self._where.extend(cut)
        if field.gcs != "select":
            self._returned.extend(cut)
        elif cut:
            self._selected.append(cut)

    def filters(self) -> Filters:
        alternatives = [(*self._returned, *selected) for selected in self._selected or ([()] if self._returned else [])]
        return Filters(
            tuple(self._where), tuple(self._counted), tuple(alternatives), self._empty, tuple(self._refusals)
        )


def _asked(params: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Op, str]]:
    keys, predicates, values = (params.get(f"filter_{part}", ()) for part in ("keys", "predicates", "values"))
    if len(keys) != len(values):
        raise HTTPException(
            500, f"filters: {len(keys)} keys and {len(values)} values; give one of each for every filter"
        )
    # as Ray, which leaves out those beyond the last predicate
    for key, predicate, text in zip(keys, predicates, values, strict=False):
        if predicate not in ("=", "!="):
            raise ConfigError(f"filter predicate {predicate!r} on {key}: it is = or !=")
        yield key, "=" if predicate == "=" else "!=", text


def _unknown(resource: Resource, key: str) -> str:
    names = ", ".join(sorted(field.name for field in resource.fields if field.filterable))
    return f"filter column {key!r}: {resource.noun} are filtered by {names}"


def _term(resource: Resource, field: Field, op: Op, text: str, *, exact: bool) -> _Term:
    if exact:
        _check_for_gcs(field, op, text)
    kinds = {"id": _id, "enum": _enum, "text": _text, "int": _int, "bool": _bool, "json": _json}
    term = kinds[field.kind](resource, field, op, text, exact)
    if not field.absent or op == "=":
        return term
    # a row without the column is neither equal to anything nor different from it
    return term._replace(conditions=(*term.conditions, Filter(field.stored, "!=", None)))


def _check_for_gcs(field: Field, op: Op, text: str) -> None:
    """
    Look at what Ray reads before it asks its GCS.

    Raises:
        ConfigError: It cannot be read.
    """
    if not field.gcs or (field.gcs != "both" and op == "!="):
        return
    if field.id_bytes and not is_id(text, field.id_bytes):
        raise ConfigError(
            f"filter {field.name}{op}{text}: the id is not {field.id_bytes * 2} hex digits; copy it whole"
        )
    if field.values and text.upper() not in field.values:
        raise ConfigError(f"filter {field.name}={text}: it is one of {', '.join(field.values)}")


def _cut_by_gcs(field: Field, op: Op, text: str, term: _Term) -> tuple[Filter, ...]:
    """Return what the GCS leaves out of its reply, without saying so, for a filter whose key it knows."""
    if field.name == "num_paused_threads" and (op, text) == ("!=", "0"):  # which Ray's debugger asks for
        return (Filter(field.stored, ">", 0),)
    if field.gcs in ("cut", "select") and op == "=" and (field.kind != "bool" or text == "True"):
        return term.conditions
    return ()


def _id(resource: Resource, field: Field, op: Op, text: str, exact: bool) -> _Term:
    if not text:
        return _text(resource, field, op, text, exact)
    if is_id(text):
        return _Term((Filter(field.stored, op, text.lower()),))
    return _ALL if op == "!=" else _NONE


def _enum(resource: Resource, field: Field, op: Op, text: str, exact: bool) -> _Term:
    name = text.upper()
    shown_for_null = (Filter(field.stored, "!=", None),) if op == "!=" and name == field.default else ()
    return _Term((Filter(field.stored, op, name), *shown_for_null))


def _text(resource: Resource, field: Field, op: Op, text: str, exact: bool) -> _Term:
    if not text:
        # the store holds null where Ray prints an empty text
        if field.default == "":
            return _Term((Filter(field.stored, op, None),))
        return _ALL if op == "!=" else _NONE
    letters = exact and op == "=" and field.exact
    return _Term((Filter(field.stored, op, text, ignore_case=not letters),))


def _int(resource: Resource, field: Field, op: Op, text: str, exact: bool) -> _Term:
    converted = exact and not field.optional
    if op == "!=" and not converted:
        return _ALL  # a number differs from any text
    try:
        number = int(text)
    except ValueError:
        refusal = f"filter {field.name} {text!r} is not a whole number; write digits"
        if converted:
            raise ConfigError(refusal) from None
        return _Term(empty=True, refused=refusal)
    if not -(2**63) <= number < 2**63:
        return _ALL if op == "!=" else _NONE
    column = find(entity(resource.entity), field.stored)
    unset = isinstance(column, Column) and column.unset == str(number) and number == field.default
    return _Term((Filter(field.stored, op, None if unset else number),))


def _bool(resource: Resource, field: Field, op: Op, text: str, exact: bool) -> _Term:
    converted = exact and not field.optional
    if op == "!=" and not converted:
        return _ALL  # a flag differs from any text
    flag = FLAGS.get(text)
    if flag is None:
        refusal = f"filter {field.name} {text!r} is not a flag; write true or false"
        if converted:
            raise ConfigError(refusal)
        return _Term(empty=True, refused=refusal)
    if field.default is None:
        return _Term((Filter(field.stored, op, flag),))
    # of what is not known Ray shows the default: all but the other flag
    wanted = flag if op == "=" else not flag
    return _Term((Filter(field.stored, "!=" if wanted == field.default else "=", not field.default),))


def _json(resource: Resource, field: Field, op: Op, text: str, exact: bool) -> _Term:
    return _ALL if op == "!=" else _NONE  # an object differs from any text


FLAGS = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}
"""What Ray reads as a flag (`convert_string_to_type`, ray/util/state/util.py)."""


def is_id(text: str, size: int | None = None) -> bool:
    """Return whether a text is an id in hex, of so many bytes if that is given."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return False
    # fromhex reads over white space
    return len(value) * 2 == len(text) and (size is None or len(value) == size)
