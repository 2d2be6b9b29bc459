"""The pure core: hits, state and a rulebook in, outcomes out. No I/O, no clock, no random, no environment.

model        the values                     decoding, parse   bytes to parameters, those to an event
conditions   the language of `when`         grammar, meanings   its parser and what its operators mean
templates    macros and filters             escaping, times    how a value is written where it stands
rulebook     clients, affiliates, triggers  reader      a rulebook text to a rulebook, all problems at once
visitors     what is kept                   keys        by which it is found
recognition, merging   whose hit it is      admission   which browsers may be given something
memory       what a hit leaves behind       triggers    the stages
postbacks    a firing to its messages       filling, body   what they say
pipeline     the list of steps
lint         what only looks wrong          difference  what changed between two rulebooks
explain      the story of one hit           trail       the earlier hits that a story names
"""

from service.engine.errors import ConditionError, EngineError, Problem, RulebookError, TemplateError
from service.engine.model import (
    Entry,
    Event,
    Firing,
    Hit,
    Outcome,
    Postback,
    PostbackState,
    Reason,
    Rejection,
    Stage,
    Verdict,
)
from service.engine.parse import parse
from service.engine.pipeline import STEPS, process, replay
from service.engine.reader import load
from service.engine.rulebook import EMPTY, Rulebook
from service.engine.visitors import State, Visitor

__all__ = [
    "EMPTY",
    "STEPS",
    "ConditionError",
    "EngineError",
    "Entry",
    "Event",
    "Firing",
    "Hit",
    "Outcome",
    "Postback",
    "PostbackState",
    "Problem",
    "Reason",
    "Rejection",
    "Rulebook",
    "RulebookError",
    "Stage",
    "State",
    "TemplateError",
    "Verdict",
    "Visitor",
    "load",
    "parse",
    "process",
    "replay",
]
