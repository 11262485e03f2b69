// Integer work: a mix of lists, matrices, a state machine and a CRC; records and strings.
#include "bench.h"
#include <stdlib.h>
#include <string.h>

// --- The mix -------------------------------------------------------------------------------------

static uint16_t crc16(uint16_t crc, uint16_t value) {
    for (int bit = 0; bit < 16; bit++) {
        int carry = (crc ^ value) & 1;
        value >>= 1;
        crc >>= 1;
        if (carry)
            crc ^= 0xA001;
    }
    return crc;
}

struct node {
    struct node *next;
    int16_t key, place;
};

enum { NODES = 96, EDGE = 12, TEXT = 512 };

static struct node *sort(struct node *list, int (*less)(const struct node *, const struct node *)) {
    if (!list || !list->next)
        return list;
    struct node *middle = list, *fast = list->next;
    while (fast && fast->next) {
        middle = middle->next;
        fast = fast->next->next;
    }
    struct node *right = middle->next, *left = list, *sorted, **end = &sorted;
    middle->next = 0;
    left = sort(left, less);
    right = sort(right, less);
    while (left && right) {
        struct node **from = less(right, left) ? &right : &left;
        *end = *from;
        *from = (*from)->next;
        end = &(*end)->next;
    }
    *end = left ? left : right;
    return sorted;
}

static int by_key(const struct node *a, const struct node *b) { return a->key < b->key; }

static int by_place(const struct node *a, const struct node *b) { return a->place < b->place; }

static uint16_t lists(uint32_t *seed) {
    struct node nodes[NODES], *list = 0;
    for (int i = 0; i < NODES; i++) {
        nodes[i] = (struct node){list, next_random(seed) & 0x3FF, i};
        list = &nodes[i];
    }
    uint16_t crc = 0;
    for (int wanted = 0; wanted < 40; wanted++) {
        struct node *found = list, *reversed = 0;
        while (found && (found->key & 0x1F) != (wanted & 0x1F))
            found = found->next;
        crc = crc16(crc, found ? found->place : 0xFFFF);
        while (list) {
            struct node *next = list->next;
            list->next = reversed;
            reversed = list;
            list = next;
        }
        list = reversed;
    }
    list = sort(list, by_key);
    for (struct node *node = list; node; node = node->next)
        crc = crc16(crc, node->key);
    list = sort(list, by_place);
    for (struct node *node = list; node; node = node->next)
        crc = crc16(crc, node->key);
    return crc;
}

static uint16_t matrices(uint32_t *seed) {
    static int16_t a[EDGE][EDGE], b[EDGE][EDGE];
    static int32_t c[EDGE][EDGE];
    for (int i = 0; i < EDGE; i++)
        for (int j = 0; j < EDGE; j++) {
            a[i][j] = next_random(seed);
            b[i][j] = next_random(seed) & 0xFF;
        }
    for (int i = 0; i < EDGE; i++)
        for (int j = 0; j < EDGE; j++) {
            int32_t sum = 0;
            for (int k = 0; k < EDGE; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
    for (int i = 0; i < EDGE; i++)
        for (int j = 0; j < EDGE; j++) {
            int32_t sum = 0;
            for (int k = 0; k < EDGE; k++) {
                int32_t product = a[i][k] * b[k][j];
                sum += (product >> 2 & 0xF) * (product >> 5 & 0x7F);
            }
            c[i][j] += sum;
        }
    uint16_t crc = 0;
    for (int i = 0; i < EDGE; i++)
        for (int j = 0; j < EDGE; j += 3)
            crc = crc16(crc, c[i][j]);
    return crc;
}

enum state { START, INTEGER, FRACTION, EXPONENT, SIGNED_EXPONENT, INVALID, STATES };

static uint16_t states(uint32_t *seed) {
    static const char *const WORDS[] = {"5012", "-874", "+122", "35.54400", ".1234500", "-110.700",
                                        "5.500e+3", "-.123e-2", "T0.3e-1F", "1.0e", "-", "12a"};
    char text[TEXT + 16];
    int length = 0;
    while (length < TEXT) {
        const char *word = WORDS[next_random(seed) % 12];
        while (*word)
            text[length++] = *word++;
        text[length++] = ',';
    }
    text[length] = 0;
    uint32_t ends[STATES] = {0}, moves[STATES] = {0};
    enum state state = START;
    for (const char *at = text; *at; at++) {
        char c = *at;
        if (c == ',') {
            ends[state]++;
            state = START;
            continue;
        }
        moves[state]++;
        int digit = c >= '0' && c <= '9';
        switch (state) {
        case START:
            state = digit || c == '-' || c == '+' ? INTEGER : c == '.' ? FRACTION : INVALID;
            break;
        case INTEGER:
            state = digit ? INTEGER : c == '.' ? FRACTION : INVALID;
            break;
        case FRACTION:
            state = digit ? FRACTION : c == 'e' || c == 'E' ? EXPONENT : INVALID;
            break;
        case EXPONENT:
            state = digit || c == '-' || c == '+' ? SIGNED_EXPONENT : INVALID;
            break;
        case SIGNED_EXPONENT:
            state = digit ? SIGNED_EXPONENT : INVALID;
            break;
        default:
            break;
        }
    }
    uint16_t crc = 0;
    for (int i = 0; i < STATES; i++)
        crc = crc16(crc16(crc, ends[i]), moves[i]);
    return crc;
}

static uint32_t integer_mix(long count) {
    uint32_t sum = 0, seed = 1;
    for (long i = 0; i < count; i++) {
        sum = mix(sum, lists(&seed));
        sum = mix(sum, matrices(&seed));
        sum = mix(sum, states(&seed));
    }
    return sum;
}

// --- Records and strings ---------------------------------------------------------------------------

enum kind { FIRST, SECOND, THIRD };

struct record {
    struct record *next;
    enum kind kind, other;
    int value;
    char text[31];
};

static struct record *head;
static int array[50], table[50][50], global;
static char letter_1, letter_2;

static __attribute__((noinline)) int plus_ten(int a, int b) { return a + 10 + b; }

static __attribute__((noinline)) enum kind compare_letters(char a, char b) {
    if (a != b)
        return FIRST;
    letter_1 = a;
    return SECOND;
}

static __attribute__((noinline)) int later(const char *a, const char *b) {
    int at = 2;
    char c = 0;
    while (at <= 2)
        if (compare_letters(a[at], b[at + 1]) == FIRST) {
            c = 'A';
            at++;
        }
    if (c >= 'W' && c < 'Z')
        at = 7;
    return c != 'R' && strcmp(a, b) > 0 ? (global = at + 7, 1) : 0;
}

static __attribute__((noinline)) enum kind change(enum kind kind) {
    switch (kind) {
    case FIRST: return FIRST;
    case SECOND: return global > 100 ? FIRST : THIRD;
    default: return SECOND;
    }
}

static __attribute__((noinline)) void fill(int *one, int (*two)[50], int a, int b) {
    int at = a + 5;
    one[at] = b;
    one[at + 1] = one[at];
    one[at + 30] = at;
    for (int i = at; i <= at + 1; i++)
        two[at][i] = at;
    two[at][at - 1] += 1;
    two[at + 20][at] = one[at];
    global = 5;
}

static __attribute__((noinline)) void follow(struct record *record) {
    struct record *next = record->next;
    *next = *head;
    record->value = 5;
    next->value = record->value;
    next->next = record->next;
    if (next->kind == FIRST) {
        next->value = plus_ten(6, next->other);
        next->other = change(record->other);
    } else {
        *record = *next;
    }
}

static uint32_t records(long count) {
    static struct record one, two;
    char left[31], right[31];
    head = &one;
    one = (struct record){&two, FIRST, THIRD, 40, "A PROGRAM OF RECORDS, SOME TEXT"};
    memset(table, 0, sizeof table);
    strcpy(left, "A PROGRAM OF RECORDS, 1ST TEXT");
    uint32_t sum = 0;
    for (long i = 0; i < count; i++) {
        letter_1 = 'A';
        letter_2 = 'B';
        int a = 2, b = 3, c = 0;
        strcpy(right, "A PROGRAM OF RECORDS, 2ND TEXT");
        while (!later(right, left) == 0 && a < b) {
            c = 5 * a - b;
            c = plus_ten(a, b);
            a++;
        }
        fill(array, table, a, c);
        follow(head);
        for (char letter = 'A'; letter <= letter_2; letter++)
            if (compare_letters(letter, 'C') == SECOND)
                change(FIRST);
        b = b * a;
        a = b / (c | 1);
        b = 7 * (b - c) - a;
        sum = mix(sum, a + b + array[8] + head->next->value + global);
    }
    return sum;
}

const struct work INTEGERS[] = {{"integer-mix", integer_mix}, {"records", records}, {0, 0}};
