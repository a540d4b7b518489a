/* Reads pictures, PGM or PPM, and prints the class of each. */
#include "@NAME@.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const classes[@UPPER@_CLASSES] = {@CLASSES@};
static const float mean[@UPPER@_CHANNELS] = {@MEAN@}, deviation[@UPPER@_CHANNELS] = {@STD@};
static float image[@UPPER@_HEIGHT * @UPPER@_WIDTH * @UPPER@_CHANNELS];
static float scores[@UPPER@_CLASSES];

static int number(FILE *file)
{
    int found = 0, c = fgetc(file);
    while (isspace(c) || c == '#') {
        if (c == '#')
            while (c != '\n' && c != EOF)
                c = fgetc(file);
        else
            c = fgetc(file);
    }
    if (!isdigit(c))
        return -1;
    for (; isdigit(c); c = fgetc(file)) {
        found = found * 10 + c - '0';
        if (found > 65535)
            return -1;
    }
    return found;
}

/* A pixel of the picture, brought to the network's channels; a grey picture has one. */
static float pixel(const unsigned char *from, int channels, int channel)
{
    if (@UPPER@_CHANNELS == 1 && channels == 3)
        return 0.299f * (float)from[0] + 0.587f * (float)from[1] + 0.114f * (float)from[2];
    return (float)from[channels == 1 ? 0 : channel];
}

static int read_picture(const char *name)
{
    FILE *file = fopen(name, "rb");
    unsigned char *raw;
    int kind, width, height, most, channels, y, x, c, ok = 0;
    if (!file)
        return 0;
    if (fgetc(file) != 'P' || ((kind = fgetc(file)) != '5' && kind != '6'))
        goto close;
    channels = kind == '6' ? 3 : 1;
    width = number(file);
    height = number(file);
    most = number(file);
    if (width < 1 || height < 1 || most != 255)
        goto close;
    raw = malloc((size_t)width * (size_t)height * (size_t)channels);
    if (!raw)
        goto close;
    if (fread(raw, (size_t)channels, (size_t)width * (size_t)height, file) == (size_t)width * (size_t)height) {
        for (y = 0; y < @UPPER@_HEIGHT; y++)
            for (x = 0; x < @UPPER@_WIDTH; x++) {
                /* between the four nearest pixels, centres on centres */
                float fy = ((float)y + 0.5f) * (float)height / @UPPER@_HEIGHT - 0.5f;
                float fx = ((float)x + 0.5f) * (float)width / @UPPER@_WIDTH - 0.5f;
                int y0 = (int)floorf(fy), x0 = (int)floorf(fx), y1, x1;
                const float dy = fy - (float)y0, dx = fx - (float)x0;
                y1 = y0 + 1 < height ? y0 + 1 : height - 1;
                x1 = x0 + 1 < width ? x0 + 1 : width - 1;
                y0 = y0 < 0 ? 0 : y0;
                x0 = x0 < 0 ? 0 : x0;
                for (c = 0; c < @UPPER@_CHANNELS; c++) {
                    const float a = pixel(raw + (y0 * width + x0) * channels, channels, c);
                    const float b = pixel(raw + (y0 * width + x1) * channels, channels, c);
                    const float d = pixel(raw + (y1 * width + x0) * channels, channels, c);
                    const float e = pixel(raw + (y1 * width + x1) * channels, channels, c);
                    const float value = (a * (1 - dx) + b * dx) * (1 - dy) + (d * (1 - dx) + e * dx) * dy;
                    image[(y * @UPPER@_WIDTH + x) * @UPPER@_CHANNELS + c] = (value / 255 - mean[c]) / deviation[c];
                }
            }
        ok = 1;
    }
    free(raw);
close:
    fclose(file);
    return ok;
}

/* The test vector: an input and the scores that the reference gave for it. */
static int test(const char *name)
{
    static float expected[@UPPER@_CLASSES];
    FILE *file = fopen(name, "rb");
    const size_t inputs = sizeof(image) / sizeof(float), outputs = @UPPER@_CLASSES;
    int same;
    if (!file)
        return 1;
    same = fread(image, sizeof(float), inputs, file) == inputs
           && fread(expected, sizeof(float), outputs, file) == outputs;
    fclose(file);
    if (same) {
        @NAME@_run(image, scores);
        same = memcmp(scores, expected, sizeof(scores)) == 0;
    }
    printf("%s: test vector %s\n", @NAME@_isa(), same ? "equal" : "DIFFERS");
    return !same;
}

int main(int argc, char **argv)
{
    int a, c, failed = 0;
    if (argc == 3 && strcmp(argv[1], "--test") == 0)
        return test(argv[2]);
    if (argc < 2) {
        fprintf(stderr, "usage: %s PICTURE.ppm...   or   --test test_vector.bin\n", argv[0]);
        return 2;
    }
    for (a = 1; a < argc; a++) {
        int best = 0;
        double total = 0;
        if (!read_picture(argv[a])) {
            fprintf(stderr, "%s: cannot be read as PGM or PPM of 8 bits\n", argv[a]);
            failed = 1;
            continue;
        }
        @NAME@_run(image, scores);
        for (c = 1; c < @UPPER@_CLASSES; c++)
            if (scores[c] > scores[best])
                best = c;
        for (c = 0; c < @UPPER@_CLASSES; c++)
            total += exp((double)(scores[c] - scores[best]));
        printf("%s: %s (%.3f)\n", argv[a], classes[best], 1 / total);
    }
    return failed;
}
