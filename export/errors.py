"""The one exception type of the PyTorch half for mistakes a user can make."""


class UserError(Exception):
    """A mistake in an input: one line that names the file, the field and the fix. The command line exits with 2.

    Args:
      where: the file, flag or field at fault.
      what: what is wrong with it.
      fix: what the user can do about it; empty when `what` already says it.
    """

    exit_code = 2

    def __init__(self, where: object, what: str, fix: str = ""):
        message = f"{where}: {what}" + (f"; {fix}" if fix else "")
        super().__init__(" ".join(message.split()))
