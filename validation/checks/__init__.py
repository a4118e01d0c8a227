"""Checks: one file per family of rules. A member exports ``RULES`` and ``check_episode`` and/or ``check_set``."""
