"""The one exception that is meant for people: what was given, what was expected, what to do."""


class ConvNextError(Exception):
    """A mistake in the input, not in the program: the command line prints it without a traceback and exits with 2."""


def nearest(word: str, choices) -> str:
    """A sentence that answers a typo: ` Did you mean "x"?`, or an empty string when nothing is near."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(choices), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
