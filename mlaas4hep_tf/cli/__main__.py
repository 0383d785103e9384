"""``python -m mlaas4hep_tf.cli``."""

from mlaas4hep_tf.cli.app import main

main()
