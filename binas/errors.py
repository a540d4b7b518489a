"""The errors that the library raises for people: one base, and the one of a user's own mistake."""


class BinasError(Exception):
    """What binas itself raises; anything else that leaves it is a bug, or an error of a user's own code."""


class UserError(BinasError):
    """A mistake of the user's, told without a traceback: names the file, the key and the remedy.

    The command line prints its text and ends with exit status 2.

    Args:
        message: what is wrong, and what to do about it in the library's own words, never in flags.
        hint: a word that the command line knows a sentence with flags for; empty: the message says it all.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
