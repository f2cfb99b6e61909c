/*
 * wire: the contract between the traced process and the reader. Everything that crosses the
 * border is declared here once, with static assertions on its layout, and used by both sides.
 *
 *   segment.h  the memfd that a traced process creates and both sides map
 *   ring.h     one single-producer ring of records per thread, and its table of edges
 *   record.h   the records in a ring
 *   message.h  the handshake over the socket
 *   names.h    environment variables, reasons of loss
 */
#ifndef MT_WIRE_WIRE_H
#define MT_WIRE_WIRE_H

#include "wire/message.h"
#include "wire/names.h"
#include "wire/record.h"
#include "wire/ring.h"
#include "wire/segment.h"

/* Bumped with every incompatible change; both sides come from one build, so they must agree. */
#define MT_WIRE_VERSION 3

#endif
