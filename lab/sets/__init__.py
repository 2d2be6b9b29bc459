"""The set engine: a rulebook compiled to SQL over the tables, with the meaning of the reference engine.

run           a log to a run: which partitions, how full       decide        the list of steps
reading       what a hit says, as expressions of SQL           events        hits to events
duplicates    transactions that came before                    people        who belongs together, who is plain
narrow        whom a trigger could concern, at a glance        ground        what rulebooks that read alike share
candidates    whom a trigger could concern at all              said          parameters of the hits that matter
past          where the last hit of a kind lies                facts         counts, times, steps, remembered values
conditions    the language of `when` in SQL                    stages        where each trigger stops; once and caps
spelling      how a query writes a postback                    letters       the postbacks of all firings
hard          the others, by the reference engine              unite         both halves before the caps
tell          outcomes, where every one is wanted              certificate   a sample, decided by both engines
session       DuckDB with its bounds
"""

from lab.sets.certificate import Certificate, SetDifference
from lab.sets.run import SetRun, replay

__all__ = ["Certificate", "SetDifference", "SetRun", "replay"]
