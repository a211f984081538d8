mod disk;
mod files;
mod store;
