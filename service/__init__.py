"""The service: the road of a hit, file by file.

settings.py            everything that can be set from outside, one frozen value
cli.py                 the commands; demo.py, rules_commands.py, counts_command.py hold the larger ones
supervisor.py          `backtrack up`: the processes of one machine, kept alive
servers.py             the two Redis servers: checked at every connect, embedded where there is none
epochs.py             is Redis as far as the tables? asked whenever its server was started
keys.py  scripts.py    names of everything in Redis; the Lua scripts, loaded by their hash
native.py  compile.py  the engine as machine code: found where it is current, made by `python -m service.compile`

1. app.py  web.py      the web process; intake/ stores each request and answers when it is on disk
     turns.py              requests that came in together are taken in one turn of the event loop
     intake/routes.py      capture, parse, refuse, store, answer
     intake/journal.py     group commit into the journal;  spool.py while Redis is away
     admin/scrape.py       /metrics, beside the intake: how everything is
2. wakeups.py          messages that say "there is work"; worker.py runs the actors and looks for forgotten work
3. tracking/           one actor at a time per partition: read a batch, decide it, commit it in one script
     engine/               the decision itself, pure
4. delivery/           what is due goes out: prepare, call, classify; every attempt recorded
5. archive/            hits, decisions, postbacks and attempts into Delta tables, exactly once
   rulebooks.py        publishing a rulebook into every partition's journal
   backlog.py          how far behind everything is, in one look (backlog.lua)
   partner.py          a recipient that records, for trying things
"""

from service import native

native.use()  # before anybody imports the engine
