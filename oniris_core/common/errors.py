"""The two kinds of trouble a person can meet, and a stop. Stages turn them into one line and an exit code."""


class OnirisError(Exception):
    """Trouble at run time that is nobody's input: exit code 1."""


class UserError(OnirisError, ValueError):
    """Bad input: says in one sentence what is wrong and what would be right. Exit code 2."""


class Interrupted(BaseException):
    """A signal asked the run to stop; everything worth keeping has been written.

    As with KeyboardInterrupt, no code that carries on after whatever goes wrong within it may take this for such trouble.
    """

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by signal {signal_number}; the same command goes on from here")
        self.exit_code = 128 + signal_number
