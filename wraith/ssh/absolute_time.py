"""A moment as OpenSSH writes it: YYYYMMDD[HHMM[SS]], of the machine's time zone unless Z or UTC follows."""

from __future__ import annotations

import calendar
import re
import time

_FORM = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?(Z|UTC)?", re.ASCII | re.IGNORECASE)


class BadTime(ValueError):
    """A moment cannot be read."""


def parse_absolute_time(text: str) -> int:
    """Give the seconds since 1970. Raises BadTime, also for moments before that."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise BadTime(f"{text[:64]!a} is not YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with or without Z")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour <= 23 and minute <= 59 and second <= 61):
        raise BadTime(f"{text!a} is not a date and time")
    try:
        # In local time as sshd has it: standard time, also where summer time is in force (tm_isdst 0).
        # Both take the 31st of February for a day in March, as sshd does.
        if match[7]:
            moment = calendar.timegm((year, month, day, hour, minute, second))
        else:
            moment = int(time.mktime((year, month, day, hour, minute, second, 0, 0, 0)))
    except (ValueError, OverflowError) as error:
        raise BadTime(f"{text!a} is out of range") from error
    if moment <= 0:
        raise BadTime(f"{text!a} is out of range")
    return moment
