"""
A timeline: which process worked on what from when to when, in a window of time.

Of few attempts each is a slice. Of many, each row is cut into steps of time, as many as there are pixels to show them,
and says how busy it was in each, with what, and whether anything failed. Either way an answer has at most 100 kB, since
its columns are arrays, and a step of a row is two characters.
"""

from raytrail.answers.timeline.bins import CHARACTERS, LEVELS, MOST_SLICES
from raytrail.answers.timeline.questions import MOST_PIXELS, WIDTH, selection, timeline
from raytrail.answers.timeline.structs import Bins, Selection, Slices, Timeline
from raytrail.answers.timeline.window import Chosen

__all__ = [
    "CHARACTERS",
    "LEVELS",
    "MOST_PIXELS",
    "MOST_SLICES",
    "WIDTH",
    "Bins",
    "Chosen",
    "Selection",
    "Slices",
    "Timeline",
    "selection",
    "timeline",
]
