# Settings; override on the command line or in the environment.
prefix ?= /usr/local
mandir ?= $(prefix)/share/man
CUDA ?= auto
NVCC ?= nvcc
NVCCFLAGS ?= -O3 -std=c++17
# GPUs whose machine code is built in (Turing, Ampere, Ada, Hopper); what comes after gets it from CUDA_PTX by the driver
CUDA_ARCH ?= 75 80 86 89 90a
CUDA_PTX ?= 90
FUZZ_SECONDS ?= 30
CONFORMANCE ?=
AR ?= ar
GCOV ?= gcov
PKG_CONFIG ?= pkg-config
# Debian package : what proves that it is there (h: header, p: program).
# libarchive: compressed and packed inputs. zlib: gzip, whose check sum
# libarchive passes over. OpenSSL: SHA-256. xxHash: stream
# hashes. PCRE2, utf8proc: tokenisers. simdjson: the JSONL hot path. OpenBLAS,
# OpenMP: the CPU backend (pkg-config: its headers). libcurl, libmicrohttpd: the judge client and its mock.
# Check: the unit tests. mandoc: the man pages' own syntax check. zstd: tests unpack tokenizers.
DEPS := g++:p:g++ pkg-config:p:pkg-config libarchive-dev:h:archive.h zlib1g-dev:h:zlib.h libssl-dev:h:openssl/evp.h libxxhash-dev:h:xxhash.h \
	libpcre2-dev:h:pcre2.h=-DPCRE2_CODE_UNIT_WIDTH=8 libutf8proc-dev:h:utf8proc.h libsimdjson-dev:H:simdjson.h \
	libopenblas-openmp-dev:h:openblas_config.h libcurl4-openssl-dev:h:curl/curl.h libmicrohttpd-dev:h:microhttpd.h \
	check:h:check.h mandoc:p:mandoc zstd:p:zstd
