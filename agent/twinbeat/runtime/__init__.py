# SPDX-License-Identifier: Apache-2.0
"""The shell around the core: feeds it events, carries out its effects, keeps what must survive.

`loop` is the loop that decides and attests, `executor` turns effects into calls, `store` is the
disk, `stage` what has to stand before anything is served; only `app` builds concrete objects.
"""
