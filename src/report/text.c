/*
 * Text on a terminal: how wide it is, and how to cut it. What cannot be printed (control characters, bytes that
 * are not UTF-8) counts and prints as one question mark: a function's name must not be able to drive the terminal.
 */
#include "report/report.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

static bool only_ascii;

void mt_report_set_ascii(bool ascii)
{
    only_ascii = ascii;
}

char *mt_format_bars(const double *values, size_t count, char *buffer, size_t size)
{
    static const char plain[] = "_.-:=+*#";
    double most = 0;
    size_t at = 0;

    for (size_t i = 0; i < count; i++)
        most = values[i] > most ? values[i] : most;
    for (size_t i = 0; i < count && at + 4 < size; i++) {
        int height = most > 0 && values[i] > 0 ? (int)(values[i] / most * 7.999) : 0;
        if (only_ascii) {
            buffer[at++] = plain[height];
        } else {
            memcpy(buffer + at, "\xe2\x96\x81", 3); /* U+2581, the lowest of eight */
            buffer[at + 2] = (char)(0x81 + height);
            at += 3;
        }
    }
    buffer[at] = '\0';
    return buffer;
}

int mt_report_width(FILE *to)
{
    struct winsize size = {0};

    if (!isatty(fileno(to)))
        return 0;
    if (ioctl(fileno(to), TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        return 80;
    return size.ws_col;
}

bool mt_report_is_plain(FILE *to)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");

    return !isatty(fileno(to)) || (none && *none) || !term || strcmp(term, "dumb") == 0;
}

/* The character at *text: its bytes in *ret_bytes, its columns returned; *ret_bytes = 0: one byte that cannot be printed. */
static int character(const char *text, size_t available, size_t *ret_bytes)
{
    mbstate_t state = {0};
    wchar_t wide;
    size_t n = mbrtowc(&wide, text, available, &state);
    int columns;

    *ret_bytes = 0;
    if (n == 0 || n == (size_t)-1 || n == (size_t)-2)
        return 1;
    columns = wcwidth(wide);
    if (columns < 0) {
        /* a control character; one of several bytes is shown as that many question marks */
        return 1;
    }
    *ret_bytes = n;
    return columns;
}

int mt_text_width(const char *text)
{
    size_t left = strlen(text), bytes;
    int width = 0;

    while (left > 0) {
        width += character(text, left, &bytes);
        text += bytes ? bytes : 1;
        left -= bytes ? bytes : 1;
    }
    return width;
}

/* Prints characters while they fit; returns the columns. */
static int print_some(FILE *to, const char *text, int room)
{
    size_t left = strlen(text), bytes;
    int used = 0;

    while (left > 0) {
        int columns = character(text, left, &bytes);
        if (used + columns > room)
            break;
        if (bytes)
            fwrite(text, 1, bytes, to);
        else
            fputc('?', to);
        used += columns;
        text += bytes ? bytes : 1;
        left -= bytes ? bytes : 1;
    }
    return used;
}

int mt_text_print(FILE *to, const char *text, int width, bool cut_start)
{
    const char *dots = only_ascii ? ".." : "\xe2\x80\xa6";
    int dots_width = only_ascii ? 2 : 1, whole = mt_text_width(text), used;
    size_t bytes;

    if (width == 0 || whole <= width)
        return print_some(to, text, whole);
    if (width <= dots_width)
        return print_some(to, text, width);
    if (!cut_start) {
        used = print_some(to, text, width - dots_width);
        fputs(dots, to);
        return used + dots_width;
    }
    fputs(dots, to);
    while (whole > width - dots_width) {
        whole -= character(text, strlen(text), &bytes);
        text += bytes ? bytes : 1;
    }
    return dots_width + print_some(to, text, whole);
}
