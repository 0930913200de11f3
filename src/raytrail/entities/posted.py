"""What an event of Ray's HTTP export says of an entity."""

from __future__ import annotations

from typing import Literal

import msgspec

PostedKind = Literal[
    "id",
    "id or none",
    "text",
    "int",
    "bool",
    "spans",
    "json",
    "messages",
    "amounts",
    "texts in base64",
    "time_ns",
    "time_ms",
    "function",
    "creates actor",
    "runtime env",
    "constant",
    "equals",
    "has",
]
"""
What a field of Ray's HTTP export holds. It follows the rules of protobuf's JSON, where 64 bits are a string.

id               an id in base64; empty where it is not known
id or none       the same, where bytes of ones stand for none
text, int, bool  as they are
spans            a list of profile events
json             an object with names of the user's own
messages         a message that is kept whole: its fields get the names that event files have, at any depth
amounts          amounts by resource, as event files have them: sorted, and 1 for 1.0
texts in base64  texts by name, each in base64
time_ns          a time (RFC 3339), in nanoseconds; ``time_ms``: in milliseconds
function         a function's descriptor: what is called, as Ray shows it
creates actor    the id of a task that creates an actor, whose id is in it
runtime env      a runtime environment, serialized, as `runtime_env_info` has it
constant         the argument, whatever it is
equals           whether it is the argument
has              whether the amounts have the argument's; null where there are none
"""


class Posted(msgspec.Struct, frozen=True):
    """A column's value in an event of Ray's HTTP export."""

    column: str
    path: str
    """
    Its path in the event's body, or, in `PostedEvent.of_each`, in a member of that list. Empty: the time of the event,
    or of the member.
    """
    kind: PostedKind
    argument: str = ""
    unset: str = ""
    """The value, as text, by which an event means "not known", beside an empty one."""
    default: str = ""
    """Its JSON where the field is missing or empty. Empty: null."""
    when: tuple[str, str] = ("", "")
    """A field beside it, and the value that it must have: else this one does not count."""
    default_unless: tuple[str, str] = ("", "")
    """A field beside it, and the value with which there is no default."""


class PostedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """
    A type of events of Ray's HTTP export (`RayEvent`, events_base_event.proto), and what its fields say of an entity.

    Ray says one thing in two ways: as rows in its event files, and as definitions and lifecycles that its aggregator
    posts. Both add up to the same state.
    """

    event_type: str
    """As Ray has it, e.g. ``TASK_LIFECYCLE_EVENT``. The chunks of such events have the same type."""
    body: str
    """The event's field that holds what it is about."""
    columns: tuple[Posted, ...]
    each: str = ""
    """The body's list, each member of which is a row of the log with a time of its own. Empty: the event is one row."""
    of_each: tuple[Posted, ...] = ()
    """The columns that the members tell."""
    times: str = ""
    """The body's list of states and of when each was entered."""
    times_at: str = ""
    """The place in a line of Ray's files where these times are, by the numbers of their states."""
    states: tuple[str, ...] = ()
    """The states that its list can name, by their numbers. Others cannot be read. Empty: any."""
    required: tuple[str, ...] = ()
    """Messages of the body without which an event says nothing."""
    ignored: tuple[str, ...] = ()
    """Paths in the body, or in a member of `each`, that are not kept: other events repeat them. ``x.*``: all in x."""
    blank: tuple[str, ...] = ()
    """Likewise, but of fields that are kept where they say anything. Ray mostly writes that they do not."""
    rest: str = "event_data"
    """The place in a line of Ray's files where the body's other fields would be, for `EXTRA`."""
