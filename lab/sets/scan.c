/* The plain hits of a batch, read at the speed of memory. What is the least unusual is only named: `scan.py` reads it.

   Plain is a hit over /e or a tracker link, decoded as today, of a known client and a known event, whose amount and
   currency, if any, are some, and all of whose identifiers can be seen to be some at a glance. The meaning is that of
   `scan.py`, which the tests compare hit by hit; nothing here decides what is rejected.

   Behind it what else looks at every row of a log once: whom identifiers tie together (`narrow.py` says the same in columns),
   and which entries there are (`spans.py`). */

#include <stdint.h>
#include <string.h>

typedef struct {
    const int32_t *offsets;
    const uint8_t *data;
} texts;

/* A table of names by open addressing: size is a power of two, each place holds a number or -1. */
typedef struct {
    int64_t size;
    const int32_t *table;
    texts names;
} numbering;

enum { CLIENT, EVENT, UID, TAG, CLICK, TXID, TEST, AMOUNT, CURRENCY, FIELDS };

typedef struct {
    int64_t rows, base, keys, cuts;
    int32_t shapes, clients, longest, decoder, click;
    int32_t first[FIELDS + 1];                      /* of the levels of each field in places */
    const int16_t *places;                          /* by level and key, -1 where nothing comes */
    const int32_t *shape_of;                        /* by client */
    numbering client_names, event_names, no_ids;    /* no_ids: what is no identifier for some client */
    const int32_t *kind, *route, *path, *refusal;   /* codes by row */
    const uint8_t *hit, *way, *refused;             /* by code; way: 1 for /e, 2 for a tracker link, 0 for others */
    const int32_t *link, *link_client;              /* by code of a path, and by link; -1 for none */
    const int32_t *partition, *decoded, *epoch;
    const int64_t *seq, *time, *cut;                /* cut: by partition the last seq; cuts: how many, 0 for none */
    const int32_t *local, *pattern;                 /* by row, and by local pattern its number or -1 */
    const int32_t *starts;
    texts values, ids;
    /* results, by the number of a row among all rows; bits say where something is there */
    int64_t *to_ord, *to_t;
    int32_t *to_cid, *to_link, *to_slot;
    int16_t *to_ev;
    uint64_t *to_uid, *to_tag, *to_click, *to_x;
    uint64_t *to_id;                                /* two for each row: the 32 hex digits of its hit id */
    int32_t *to_epoch;
    uint8_t *id_bits, *uid_bits, *tag_bits, *click_bits, *x_bits, *link_bits, *test_bits, *plain_bits, *here_bits;
    uint32_t *odd;
    int64_t odds;
} job;

static const uint64_t MIX = 0x9E3779B97F4A7C15u, STIR = 0xD6E8FEB86659FD93u, TURN = 0xA0761D6478BD642Fu;
#define PLACE ((int64_t)1 << 44)
#define GROUP ((uint64_t)1 << 20)

static uint64_t fold(uint64_t one, uint64_t other) {
    unsigned __int128 product = (unsigned __int128)one * other;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash(const uint8_t *text, int64_t length) {
    uint64_t word, found = TURN ^ ((uint64_t)length * MIX);
    for (; length >= 8; text += 8, length -= 8) {
        memcpy(&word, text, 8);
        found = fold(found ^ word, STIR) + MIX;
    }
    word = 0;
    memcpy(&word, text, (size_t)length);
    return fold(fold(found ^ word, STIR) + TURN, MIX);
}

void hash_texts(int64_t rows, const int32_t *offsets, const uint8_t *data, uint64_t *found) {
    for (int64_t row = 0; row < rows; row++)
        found[row] = hash(data + offsets[row], offsets[row + 1] - offsets[row]);
}

void number_names(int64_t count, const int32_t *offsets, const uint8_t *data, int64_t size, int32_t *table) {
    for (int64_t place = 0; place < size; place++) table[place] = -1;
    for (int64_t number = 0; number < count; number++) {
        uint64_t place = hash(data + offsets[number], offsets[number + 1] - offsets[number]) & (uint64_t)(size - 1);
        while (table[place] >= 0) place = (place + 1) & (uint64_t)(size - 1);
        table[place] = (int32_t)number;
    }
}

static int32_t number_of(const numbering *known, const uint8_t *text, int32_t length) {
    uint64_t place = hash(text, length) & (uint64_t)(known->size - 1);
    for (int32_t number; (number = known->table[place]) >= 0; place = (place + 1) & (uint64_t)(known->size - 1)) {
        int32_t begin = known->names.offsets[number];
        if (known->names.offsets[number + 1] - begin == length && !memcmp(known->names.data + begin, text, (size_t)length))
            return number;
    }
    return -1;
}

/* Lists of codes that are the same get the same local number; firsts: the first row of each. Answers with how many.
   size: of the table, a power of two and more than the rows. */
int64_t tell_patterns(int64_t rows, const int32_t *starts, const int32_t *codes, int64_t size, int32_t *table,
                      int32_t *local, int32_t *firsts) {
    int64_t count = 0;
    memset(table, 0xff, (size_t)size * sizeof *table);
    for (int64_t row = 0; row < rows; row++) {
        const int32_t *mine = codes + starts[row];
        size_t bytes = (size_t)(starts[row + 1] - starts[row]) * sizeof *codes;
        uint64_t place = hash((const uint8_t *)mine, (int64_t)bytes) & (uint64_t)(size - 1);
        for (;; place = (place + 1) & (uint64_t)(size - 1)) {
            int32_t number = table[place];
            if (number < 0) {
                firsts[count] = (int32_t)row;
                number = table[place] = (int32_t)count++;
            } else {
                int32_t first = firsts[number];
                if ((size_t)(starts[first + 1] - starts[first]) * sizeof *codes != bytes) continue;
                if (memcmp(codes + starts[first], mine, bytes)) continue;
            }
            local[row] = number;
            break;
        }
    }
    return count;
}

/* The first value of a field that came, by strength of its source; its length, -1 where none came. */
static int32_t sent(const job *at, int field, int64_t key, int32_t start, const uint8_t **text) {
    for (int32_t level = at->first[field]; level < at->first[field + 1]; level++) {
        int16_t place = at->places[level * at->keys + key];
        if (place < 0) continue;
        int32_t begin = at->values.offsets[start + place];
        *text = at->values.data + begin;
        return at->values.offsets[start + place + 1] - begin;
    }
    return -1;
}

static int is_digit(uint8_t one) { return one >= '0' && one <= '9'; }

static int is_letter(uint8_t one) { return (one >= 'A' && one <= 'Z') || (one >= 'a' && one <= 'z'); }

static int is_clear(const job *at, const uint8_t *text, int32_t length) {
    uint8_t first = length > 0 ? text[0] : 0;
    if (!is_digit(first) && !is_letter(first)) return 0;
    return length > at->longest || number_of(&at->no_ids, text, length) < 0;
}

/* Up to `most` digits from a place; how many. */
static int32_t digits(const uint8_t *text, int32_t length, int32_t from, int32_t most) {
    int32_t count = 0;
    while (count < most && from + count < length && is_digit(text[from + count])) count++;
    return count;
}

/* -?[0-9]{1,18}(\.[0-9]{1,9})? */
static int is_amount(const uint8_t *text, int32_t length) {
    int32_t from = length > 0 && text[0] == '-', whole = digits(text, length, from, 18), rest;
    if (!whole) return 0;
    from += whole;
    if (from == length) return 1;
    rest = text[from] == '.' ? digits(text, length, from + 1, 9) : 0;
    return rest && from + 1 + rest == length;
}

static int is_currency(const uint8_t *text, int32_t length) {
    return length == 3 && is_letter(text[0]) && is_letter(text[1]) && is_letter(text[2]);
}

/* The first and the last byte of a job are others' too, who may write at the same time. */
static void set(const job *at, uint8_t *bits, int64_t row) {
    int64_t byte = row >> 3;
    uint8_t bit = (uint8_t)(1 << (row & 7));
    if (byte == at->base >> 3 || byte == (at->base + at->rows - 1) >> 3)
        __atomic_fetch_or(bits + byte, bit, __ATOMIC_RELAXED);
    else
        bits[byte] |= bit;
}

/* Numbers of so many bytes to some places. */
void scatter(int64_t rows, const uint32_t *places, int64_t width, const uint8_t *values, uint8_t *to) {
    for (int64_t row = 0; row < rows; row++) memcpy(to + places[row] * width, values + row * width, (size_t)width);
}

void mark(int64_t rows, const uint32_t *places, const uint8_t *marked, uint8_t *bits) {
    for (int64_t row = 0; row < rows; row++)
        if (marked[row]) bits[places[row] >> 3] |= (uint8_t)(1 << (places[row] & 7));
}

#define EACH(byte) ((uint64_t)(byte) * 0x0101010101010101u)

/* 32 lower hex digits as two numbers, the first digit lowest; 0 if the text is none. Eight at a time, as bytes of a word. */
static int read_id(const uint8_t *text, int32_t length, uint64_t *to) {
    if (length != 32) return 0;
    for (int part = 0; part < 4; part++) {
        uint64_t word, digits;
        memcpy(&word, text + 8 * part, 8);
        digits = (word & EACH(0x0f)) + (word >> 6 & EACH(1)) * 9;
        if (word != (digits & EACH(0x0f)) + EACH('0') + (((digits & EACH(0x0f)) + EACH(6)) >> 4 & EACH(1)) * ('a' - '0' - 10))
            return 0;
        digits = (digits | digits >> 4) & 0x00ff00ff00ff00ffu;
        digits = (digits | digits >> 8) & 0x0000ffff0000ffffu;
        digits = (digits | digits >> 16) & 0xffffffffu;
        to[part / 2] = part & 1 ? to[part / 2] | digits << 32 : digits;
    }
    return 1;
}

/* The ids of some rows as texts of 32 bytes, one after the other; 0 if some row has none that is kept. */
int64_t write_ids(int64_t count, const uint32_t *rows, const uint64_t *ids, const uint8_t *bits, uint8_t *to) {
    for (int64_t one = 0; one < count; one++) {
        int64_t row = rows[one];
        if (!(bits[row >> 3] >> (row & 7) & 1)) return 0;
        for (int half = 0; half < 2; half++)
            for (int shift = 0; shift < 64; shift += 4)
                *to++ = (uint8_t)"0123456789abcdef"[ids[2 * row + half] >> shift & 15];
    }
    return 1;
}

/* One hit; 0 if it is odd. to: its number among all rows. */
static int read_hit(const job *at, int64_t row, int64_t to) {
    int32_t start = at->starts[row], pattern = at->pattern[at->local[row]], link = -1, cid, ev;
    int way = at->way[at->route[row]];
    const uint8_t *text = 0;
    if (pattern < 0 || !way || at->refused[at->refusal[row]] || at->decoded[row] != at->decoder) return 0;
    if (start == at->starts[row + 1]) return 0;
    if (way == 2) {
        link = at->link[at->path[row]];
        cid = link < 0 ? -1 : at->link_client[link];
    } else {
        int32_t length = sent(at, CLIENT, (int64_t)pattern * at->shapes, start, &text);
        cid = length < 0 ? -1 : number_of(&at->client_names, text, length);
    }
    if (cid < 0) return 0;
    int64_t key = (int64_t)pattern * at->shapes + at->shape_of[cid];
    int32_t length = sent(at, AMOUNT, key, start, &text);
    if (length >= 0 && !is_amount(text, length)) return 0;
    length = sent(at, CURRENCY, key, start, &text);
    if (length >= 0 && !is_currency(text, length)) return 0;
    uint64_t event_hash, salt = ((uint64_t)at->partition[row] * GROUP + (uint64_t)cid) * MIX;
    if (way == 2) {
        ev = at->click;
        event_hash = hash((const uint8_t *)"click", 5);
    } else {
        length = sent(at, EVENT, key, start, &text);
        ev = length < 0 ? -1 : number_of(&at->event_names, text, length);
        if (ev < 0) return 0;
        event_hash = hash(text, length);
    }
    length = sent(at, UID, key, start, &text);
    int has_uid = length >= 0;
    if (has_uid && !is_clear(at, text, length)) return 0;
    uint64_t uid = has_uid ? hash(text, length) + salt : 0;
    length = sent(at, TAG, key, start, &text);
    int has_tag = length >= 0;
    if (has_tag && !is_clear(at, text, length)) return 0;
    uint64_t tag = has_tag ? hash(text, length) + salt : 0;
    length = sent(at, CLICK, key, start, &text);
    int has_click = length >= 0;
    if (has_click && !is_clear(at, text, length)) return 0;
    if (way == 2) {
        has_click = 1;
        text = at->ids.data + at->ids.offsets[row];
        length = at->ids.offsets[row + 1] - at->ids.offsets[row];
    }
    uint64_t click = has_click ? hash(text, length) + salt : 0;
    length = sent(at, TXID, key, start, &text);
    if (length >= 0) {
        at->to_x[to] = (hash(text, length) * MIX + event_hash) * MIX + salt;
        set(at, at->x_bits, to);
    }
    length = sent(at, TEST, key, start, &text);
    if (length == 1 && text[0] == '1') set(at, at->test_bits, to);
    if (has_uid) set(at, at->uid_bits, to);
    if (has_tag) set(at, at->tag_bits, to);
    if (has_click) set(at, at->click_bits, to);
    if (link >= 0) set(at, at->link_bits, to);
    set(at, at->plain_bits, to);
    at->to_uid[to] = uid, at->to_tag[to] = tag, at->to_click[to] = click, at->to_link[to] = link;
    at->to_t[to] = at->time[row], at->to_cid[to] = cid, at->to_ev[to] = (int16_t)ev;
    at->to_slot[to] = pattern * at->clients + cid;
    return 1;
}

static int is_cut(const job *at, int32_t partition, int64_t seq) {
    return at->cuts && (partition < 0 || partition >= at->cuts || seq > at->cut[partition]);
}

/* Reads all rows. Hits before the cut that are not plain stand in odd. */
void read_hits(job *at) {
    at->odds = 0;
    for (int64_t row = 0; row < at->rows; row++) {
        int64_t to = at->base + row;
        int32_t begin = at->ids.offsets[row];
        at->to_ord[to] = (int64_t)at->partition[row] * PLACE + at->seq[row], at->to_epoch[to] = at->epoch[row];
        if (read_id(at->ids.data + begin, at->ids.offsets[row + 1] - begin, at->to_id + 2 * to)) set(at, at->id_bits, to);
        if (!at->hit[at->kind[row]] || is_cut(at, at->partition[row], at->seq[row])) continue;
        set(at, at->here_bits, to);
        if (!read_hit(at, row, to)) at->odd[at->odds++] = (uint32_t)row;
    }
}

static int is_set(const uint8_t *bits, int64_t from, int64_t row) {
    return !bits || bits[(from + row) >> 3] >> ((from + row) & 7) & 1;
}

/* The rows not found yet that share a value with a fresh one; how many. there, from: bits of the rows that count, 0 for all.
   size: of the table, a power of two and more than twice the fresh. 0 stands for an empty place; whether the value 0 is
   among the fresh is noted beside. filter: sixteen bits for each place, all clear: of nearly all other rows one look there
   says that they are none. */
int64_t spread(int64_t rows, const uint64_t *values, const uint8_t *there, int64_t from, int64_t count,
               const uint32_t *fresh, int64_t size, uint64_t *table, uint8_t *filter, const uint8_t *found,
               uint32_t *reached) {
    int64_t reaches = 0, zero = 0;
    int shift = 64 - __builtin_ctzll((uint64_t)size), fine = shift - 4;
    uint64_t mask = (uint64_t)size - 1;
    for (int64_t one = 0; one < count; one++) {
        if (!is_set(there, from, fresh[one])) continue;
        uint64_t value = values[fresh[one]], mixed = value * MIX, place = mixed >> shift;
        filter[mixed >> fine >> 3] |= (uint8_t)(1 << (mixed >> fine & 7));
        while (table[place] && table[place] != value) place = (place + 1) & mask;
        if (value) table[place] = value;
        else zero = 1;
    }
    for (int64_t row = 0; row < rows; row++) {
        uint64_t value = values[row], mixed = value * MIX, place = mixed >> shift;
        if (!(filter[mixed >> fine >> 3] >> (mixed >> fine & 7) & 1)) continue;
        if (found[row] || !is_set(there, from, row)) continue;
        while (table[place] && table[place] != value) place = (place + 1) & mask;
        if (value ? table[place] == value : zero) reached[reaches++] = (uint32_t)row;
    }
    return reaches;
}

/* Notes rows as found; those that were not yet stand in fresh. How many. */
int64_t find(int64_t count, const uint32_t *reached, uint8_t *found, uint32_t *fresh) {
    int64_t news = 0;
    for (int64_t one = 0; one < count; one++)
        if (!found[reached[one]]) found[reached[one]] = 1, fresh[news++] = reached[one];
    return news;
}

/* First and last seq and the rows of each partition; 0 if there are more partitions, or seq does not rise in some. */
int64_t spans(int64_t rows, const int64_t *places, int64_t most, int64_t *first, int64_t *last, int64_t *count) {
    for (int64_t row = 0; row < rows; row++) {
        int64_t partition = places[row] / PLACE, seq = places[row] % PLACE;
        if (partition < 0 || partition >= most || (count[partition] && seq <= last[partition])) return 0;
        if (!count[partition]++) first[partition] = seq;
        last[partition] = seq;
    }
    return 1;
}
