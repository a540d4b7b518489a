"""The one exception that a user's own mistake raises."""


class UserError(Exception):
    """A mistake of the user's, told without a traceback: names the file, the key and the remedy.

    The command line prints its text and ends with exit status 2.
    """
