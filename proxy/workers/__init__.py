"""Several relay processes behind one control process, for `workers: 2` and more.

    control process                                     relay process, N of them
    ───────────────                                     ────────────────────────
    private keys, CA key, token sources, admin site     listeners (SO_REUSEPORT), relay, access log
         `control`  ◄──── frames over a socket pair ────►  `worker`
         `relays`         `messages`, `channel`            `tokens`, `contexts`: what the relay asks, answered from there
            │                                                 ▲
            └─────────────►  `template`  ──── forks ──────────┘

The template is started anew (not forked), so nothing of the control process' memory is in it, nor in the relay processes that are
forked from it and share its imports: none of them ever opens a key file or holds a key but those of the leaf certificates it
presents. They get access tokens and leaves over their socket pairs.
"""
