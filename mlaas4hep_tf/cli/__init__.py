"""``mlaas4hep-tf scan | train | evaluate | predict | export | bench``: every step from the shell.

Its modules import what a command needs when the command runs, so that ``--help`` costs a fraction of a second.
"""

from mlaas4hep_tf.cli.app import main

__all__ = ["main"]
