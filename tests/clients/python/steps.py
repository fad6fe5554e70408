"""The steps of a client: run in the order in which they are written, the first that fails ends the program by its name."""

import sys
import time
import traceback

PATIENCE_S = 30
_steps = []


def step(title):
    """Makes a function the next step."""

    def note(function):
        _steps.append((title, function))
        return function

    return note


def run(world):
    """Every step on one world, which they share."""
    for title, function in _steps:
        try:
            function(world)
        except Exception:
            traceback.print_exc()
            sys.exit(f"FAILED: {title}")
        print(f"ok: {title}", flush=True)


def eventually(what, condition):
    """What a condition gives once it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


def expect(found, wanted, of=None):
    """Both are the same; else it says of what."""
    if found != wanted:
        said = getattr(of, "text", of)
        raise AssertionError(f"{found!r} in place of {wanted!r}{'' if of is None else f': {said}'}")
