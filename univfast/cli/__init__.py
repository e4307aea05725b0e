"""The command line. Commands import what they need when they run, so that help is immediate.

================  ================================================================
``main``          the `univfast` command, and what every error looks like
``correlate``     `univfast correlate` and `univfast report`
``capture``       `univfast capture`
``control``       `univfast control`
``weights``       `univfast weights`
``ablate``        `univfast ablate`
``experiment``    `univfast demo` and `univfast train`
``show``          `univfast show`
``export``        `univfast export`
``info``          `univfast info`
``bench``         `univfast bench`
``options``       options of commands, from where they are declared and registered
``help``          help in panels, and what was meant by a word that is none
``sources``       what is compared: files, models on a text, and their controls
``text_options``  options of the commands that run models on a text
``torchrun``      the processes that a launcher started together
``printing``      what commands print on stdout and stderr, where anybody listens
``results``       a result as it is printed: counts, a row a layer, and what it means
``tables``        tables and lines that fit the width they are printed on
``failures``      what is said where a command cannot go on
``progress``      bars on stderr, where a person is watching
================  ================================================================
"""

from univfast.cli.main import main

__all__ = ["main"]
