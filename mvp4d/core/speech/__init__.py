"""Speech to motion: phones with times, a mouth that says them, and blinks, brows and head that go along.

`speak.speak` does it all; `recognise` finds the phones, `mouth` and `manner` move the face, `talk` joins them.
"""
