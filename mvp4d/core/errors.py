"""The one exception type for mistakes a user can make."""


class UserError(Exception):
    """A mistake in an input: one line that names the file, the field and the fix. The command line exits with 2.

    Args:
      where: the file or field at fault, or the argument: `name`, in backticks, which the command line shows as
        its flag. So do `what` and `fix`.
      what: what is wrong with it.
      fix: what the user can do about it; empty when `what` already says it.
    """

    exit_code = 2

    def __init__(self, where: object, what: str, fix: str = ""):
        super().__init__(str(where), what, fix)  # what it was made from, so that worker processes can hand it on

    def __str__(self) -> str:
        where, what, fix = self.args
        return " ".join((f"{where}: {what}" + (f"; {fix}" if fix else "")).split())
