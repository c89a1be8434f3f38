"""What operators look at. Watches the relay, never steers it.

access_log.py    one line an exchange: queue, writer thread, newest records in memory      (does I/O)
log_lines.py     an exchange as a line of JSON, or of text for a terminal
log_output.py    the file or standard error that lines go to: rotation, full disks         (does I/O)
event_log.py     everything else the program says: `logging` without blocking, redacted    (does I/O)
loop_lag.py      how late the event loop is
snapshot.py      the counters of one process as a value that can be sent and added up
metrics.py       snapshots as Prometheus metrics
admission.py     who may read the admin site
admin.py         the admin site: probes and metrics over HTTP                              (does I/O)
history.py       the last minutes in samples, for charts
causes.py        whose fault a failed exchange is
usage.py         how long each route's exchanges take, why they fail, who uses which identity
route_window.py  what each route did in the last minutes
token_history.py the last lives of each token, for a timeline
problems.py      what is wrong now, and the next step
overview.py      what the page shows, as JSON
page.py, static/ the page to look at: files, state, server-sent events                     (does I/O)
"""
