"""Comparison of headers with those of the peer."""


def same_keywords(theirs, ours, close, skipped):
    """Check that two headers have the same keywords, values and comments, but for some."""
    names = [[k for k in h if k and k not in skipped] for h in (theirs, ours)]
    assert names[0] == names[1]
    for name in names[0]:
        a, b = theirs[name], ours[name]
        number = isinstance(a, float) or isinstance(b, float)
        assert b == (close.approx(a) if number else a), name
        assert theirs.comments[name][:40] == ours.comments[name][:40], name
