/*
 * point.h
 *	  Named points, where a test makes something go wrong: nothing at all unless built with SN_POINTS (make points).
 *
 * SN_POINT("subject.moment") stands before or after a step that must not be torn from the next. SN_POINT_LATE is for what can't
 * fail any more, such as a callback behind the commit: only the actions kill and wait work there. A point in PL/pgSQL is a
 * line "-- point: subject.moment". test/t/310_points.pl visits each of them.
 */
#ifndef SN_POINT_H
#define SN_POINT_H

#ifdef SN_POINTS

typedef struct SnPoint
{
	const char *name;
	bool late;
} SnPoint;

extern void sn_point_define(void);
extern void sn_point_pass(const SnPoint *point);

/* All points of the build stand in one section of the library, so that there is a list of them. */
#define SN_POINT_AT(name_, late_) \
	do \
	{ \
		static SnPoint point_ __attribute__((used, section("sn_points"))) = {(name_), (late_)}; \
		sn_point_pass(&point_); \
	} while (0)

#else

#define sn_point_define() ((void) 0)
#define SN_POINT_AT(name_, late_) ((void) 0)

#endif

#define SN_POINT(name_) SN_POINT_AT(name_, false)
#define SN_POINT_LATE(name_) SN_POINT_AT(name_, true)

#endif
