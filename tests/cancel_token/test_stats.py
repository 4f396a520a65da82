from cancel_token import CancelToken, record_origins


def test_t_s8_stats_count_and_the_debug_switch_says_where() -> None:
    token = CancelToken()
    with record_origins():
        child = token.child()
        registration = token.on_cancel(print)
    unrecorded = token.on_cancel(print)
    stats = token.stats()

    assert (1, 2, 0) == (stats.children, stats.registrations, stats.waiting)
    assert 2 == len(stats.origins)
    assert all(f"{__file__}:" in origin for origin in stats.origins)
    assert "test_t_s8" in stats.origins[0]
    registration.close()
    unrecorded.close()
    child.close()
    assert (0, 0, ()) == (token.stats().children, token.stats().registrations, token.stats().origins)
