"""The one exception for mistakes a user can mend: it names file, field and remedy in one line."""


class UserError(ValueError):
    """Bad input: a wrong config, a missing folder, a damaged file. Commands print it and exit with 2."""


class RecordError(UserError):
    """A record or shard that cannot be read; the message names the file and, where known, the offset."""
