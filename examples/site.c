/*
 * A small site generator that builds its site ten times over, as a development server does: something to point memtrace
 * at. Usage: site [OUTPUT_FOLDER [PAGES [BUILDS]]]
 *
 * Among what it holds at the end, one thing is a leak: remember_link() keeps every link of every build. The rest is as it should
 * be: load_template() fills a cache once, keep_recent() holds a bounded number of pages, and the page trees are freed.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "memtrace.h"

enum { SECTIONS = 8, PARAGRAPHS = 5, WORDS = 40, RECENT = 32, TEMPLATES = 4 };

struct node {
    enum { HEADING, PARAGRAPH, LINK } kind;
    char *text;
    struct node *next;
};

struct buffer {
    char *data;
    size_t used, size;
};

struct link {
    struct link *next;
    char target[];
};

static struct link *links; /* never emptied: the planted leak */
static char *templates[TEMPLATES];
static char *recent[RECENT];
static unsigned long link_count;

static void *need(void *p)
{
    if (!p) {
        fprintf(stderr, "site: out of memory\n");
        exit(1);
    }
    return p;
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1103515245u + 12345u;
    return *seed >> 16;
}

static char *make_sentence(unsigned *seed, int words)
{
    static const char *const vocabulary[] = {"site", "page", "build", "theme", "index", "link", "cache", "asset"};
    char *text = need(malloc((size_t)words * 6 + 1));
    size_t used = 0;

    for (int i = 0; i < words; i++)
        used += (size_t)sprintf(text + used, "%s ", vocabulary[next_random(seed) % 8]);
    return text;
}

static struct node *add_node(struct node ***tail, int kind, char *text)
{
    struct node *node = need(malloc(sizeof *node));

    *node = (struct node){.kind = kind, .text = text};
    **tail = node;
    *tail = &node->next;
    return node;
}

/* The page as a list of blocks; what a parser would make of its source. */
static struct node *parse_page(int page, int pages)
{
    struct node *first = NULL, **tail = &first;
    unsigned seed = (unsigned)page + 1;

    for (int s = 0; s < SECTIONS; s++) {
        char *target = need(malloc(32));

        add_node(&tail, HEADING, make_sentence(&seed, 4));
        for (int p = 0; p < PARAGRAPHS; p++)
            add_node(&tail, PARAGRAPH, make_sentence(&seed, WORDS));
        snprintf(target, 32, "page%u.html", next_random(&seed) % (unsigned)pages);
        add_node(&tail, LINK, target);
    }
    return first;
}

static void free_page(struct node *node)
{
    while (node) {
        struct node *next = node->next;

        free(node->text);
        free(node);
        node = next;
    }
}

static void remember_link(const char *target)
{
    struct link *link = need(malloc(sizeof *link + strlen(target) + 1));

    strcpy(link->target, target);
    link->next = links;
    links = link;
    link_count++;
}

static const char *load_template(int number)
{
    if (!templates[number]) {
        templates[number] = need(malloc(20000));
        snprintf(templates[number], 20000, "<!doctype html><html><body class=\"t%d\">\n", number);
    }
    return templates[number];
}

static void append(struct buffer *b, const char *text)
{
    size_t length = strlen(text);

    if (b->used + length + 1 > b->size) {
        b->size = b->size * 2 + length + 256;
        b->data = need(realloc(b->data, b->size));
    }
    memcpy(b->data + b->used, text, length + 1);
    b->used += length;
}

static char *render_page(const struct node *node, int page)
{
    static const char *const open[] = {"<h2>", "<p>", "<a href=\""}, *const close[] = {"</h2>\n", "</p>\n", "\">more</a>\n"};
    struct buffer html = {0};

    append(&html, load_template(page % TEMPLATES));
    for (; node; node = node->next) {
        append(&html, open[node->kind]);
        append(&html, node->text);
        append(&html, close[node->kind]);
        if (node->kind == LINK)
            remember_link(node->text);
    }
    append(&html, "</body></html>\n");
    return html.data;
}

static void keep_recent(int page, char *html)
{
    free(recent[page % RECENT]);
    recent[page % RECENT] = html;
}

static bool write_page(const char *folder, int page, const char *html)
{
    char path[4096];
    FILE *file;
    bool good;

    snprintf(path, sizeof path, "%s/page%d.html", folder, page);
    file = fopen(path, "w");
    if (!file)
        return false;
    good = fputs(html, file) >= 0;
    return fclose(file) == 0 && good;
}

static bool build_site(const char *folder, int pages)
{
    for (int page = 0; page < pages; page++) {
        struct node *tree = parse_page(page, pages);
        char *html = render_page(tree, page);

        free_page(tree);
        if (!write_page(folder, page, html)) {
            fprintf(stderr, "site: cannot write to %s: %s\n", folder, strerror(errno));
            free(html);
            return false;
        }
        keep_recent(page, html);
    }
    return true;
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "site-out";
    int pages = argc > 2 ? atoi(argv[2]) : 300, builds = argc > 3 ? atoi(argv[3]) : 10;

    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "site: cannot make %s: %s\n", folder, strerror(errno));
        return 1;
    }
    memtrace_phase_begin("builds");
    for (int build = 0; build < builds; build++) {
        memtrace_iteration("build");
        if (!build_site(folder, pages))
            return 1;
    }
    memtrace_phase_end("builds");
    printf("built %d pages %d times; %lu links remembered\n", pages, builds, link_count);
    return 0;
}
