// A shared library that is no plugin: it exports nothing of what one must.
extern "C" __attribute__((visibility("default"))) int something_else() { return 0; }
