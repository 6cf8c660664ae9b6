"""The sessions of visitors: in a signed cookie, and in a table what is too long for a cookie."""
