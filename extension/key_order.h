/*
 * key_order.h
 *	  Letting a key go on, for code outside of a batch.
 */
#ifndef SN_KEY_ORDER_H
#define SN_KEY_ORDER_H

/* See key_release() in 30_key_order.sql. SPI is connected. */
extern void sn_key_release(const char *tenant_id, const char *exception_id, const char *worker_type);

#endif /* SN_KEY_ORDER_H */
