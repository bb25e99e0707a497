"""Programs as files: what they say, what they must not hold, and graphs changed to another form."""
