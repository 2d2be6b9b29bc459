"""The set engine: a rulebook compiled to SQL over the tables, with the meaning of the reference engine.

run           a log to a run: which partitions, how full       decide        the list of steps
pages         Parquet files, batch by batch                    sheet         a log's hits in memory, row by row
events        the hits of a log as one narrow frame            stored        hits as the engine wants them, from memory
plain         plain hits, by the kernel                        scan          all others, column by column
kernel        scan.c, where it was compiled                    patterns      which hits bring the same names
reading       what a hit says, field by field                  names         the custom names that sets work with
duplicates    transactions that came before                    people        who belongs together, who is plain
narrow        whom a trigger could concern, at a glance        ground        what rulebooks that read alike share
candidates    whom a trigger could concern at all              said          parameters of the hits that matter
past          where the last hit of a kind lies                facts         counts, times, steps, remembered values
conditions    the language of `when` in SQL                    stages        where each trigger stops; once and caps
spelling      how a query writes a postback                    letters       the postbacks of all firings
hard          the others, by the reference engine              unite         both halves before the caps
tell          outcomes, where every one is wanted              certificate   a sample, decided by both engines
session       DuckDB with its bounds                           spans         which entries there are, by partition
"""

from lab.sets.certificate import Certificate, SetDifference
from lab.sets.run import SetRun, replay

__all__ = ["Certificate", "SetDifference", "SetRun", "replay"]
