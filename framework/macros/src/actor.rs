//! `#[actor]`: what an `impl` block of an actor says. What is made of it: `actor/write.rs`.

mod write;

use proc_macro2::{Ident, TokenStream};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::visit_mut::VisitMut;
use syn::{Attribute, Expr, ExprPath, ImplItem, ImplItemFn, Item, ItemImpl, ReturnType, Type, Visibility};

use crate::errors::Errors;
use crate::keys;
use crate::signature::{self, Of, Returns, Signature};

/// Methods of the reference to an actor, which a message of the same name could not be reached past.
const TAKEN_BY_THE_REFERENCE: [&str; 8] = ["address", "borrow", "clone", "eq", "into", "ne", "to_owned", "try_into"];

/// What was said of an actor.
struct Actor {
    /// The type, as the user wrote it.
    ty: Type,
    /// Its last name.
    ident: Ident,
    keys: Keys,
    constructor: Constructor,
    /// Which of reason and context the hook takes, in its order.
    stopping: Option<Stopping>,
    methods: Vec<Method>,
}

#[derive(Default)]
struct Keys {
    max_restarts: Option<u32>,
    restart_period_ms: Option<u64>,
    restart: Option<&'static str>,
    concurrency: Option<usize>,
    num_cpus: Option<Expr>,
    num_gpus: Option<Expr>,
    /// Amounts of resources with names of their own.
    resources: Option<Vec<(String, Expr)>>,
}

struct Constructor {
    vis: Visibility,
    docs: Vec<Attribute>,
    signature: Signature,
    /// The whole return type, when it is written `Result`.
    fallible: Option<Type>,
}

struct Stopping {
    is_async: bool,
    /// True where it takes the context, false where it takes the reason.
    takes_context: Vec<bool>,
}

struct Method {
    vis: Visibility,
    docs: Vec<Attribute>,
    conditions: Vec<Attribute>,
    cancel_drops: bool,
    signature: Signature,
}

/// What `#[handler(..)]` says of a method.
#[derive(Default)]
struct MethodKeys {
    skip: Option<()>,
    cancel_drops: Option<()>,
}

pub(crate) fn expand(keys: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let keys = Keys::read(keys)?;
    let mut block = block(syn::parse2(item)?)?;
    let actor = Actor::read(keys, &mut block)?;
    let written = write::actor(&actor);
    Ok(quote::quote!(#block #written))
}

/// The inherent `impl` block that the attribute must stand on.
fn block(item: Item) -> syn::Result<ItemImpl> {
    match item {
        Item::Impl(block) => match &block.trait_ {
            None => Ok(block),
            Some((_, path, _)) if path.segments.last().is_some_and(|last| last.ident == "Handler") => {
                Err(syn::Error::new_spanned(path, "a hand-written `impl Handler` is registered by #[handler]"))
            }
            Some((_, path, _)) => {
                Err(syn::Error::new_spanned(path, "#[actor] stands on the inherent block: `impl Counter { .. }`"))
            }
        },
        Item::Struct(item) => Err(on_the_type(&item.ident)),
        Item::Enum(item) => Err(on_the_type(&item.ident)),
        other => Err(syn::Error::new(other.span(), "#[actor] stands on an `impl` block with `fn new`")),
    }
}

fn on_the_type(ident: &Ident) -> syn::Error {
    syn::Error::new_spanned(ident, format_args!("#[actor] stands on the methods: write it on `impl {ident} {{ .. }}`"))
}

impl Keys {
    fn read(keys: TokenStream) -> syn::Result<Self> {
        let mut this = Self::default();
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("max_restarts") {
                keys::once(&mut this.max_restarts, &meta, keys::integer(&meta, 0)?)
            } else if meta.path.is_ident("restart_period_ms") {
                keys::once(&mut this.restart_period_ms, &meta, keys::integer(&meta, 1)?)
            } else if meta.path.is_ident("restart") {
                keys::once(&mut this.restart, &meta, keys::word(&meta, &RESTARTS)?)
            } else if meta.path.is_ident("concurrency") {
                keys::once(&mut this.concurrency, &meta, keys::integer(&meta, 1)?)
            } else if meta.path.is_ident("num_cpus") {
                keys::once(&mut this.num_cpus, &meta, keys::number(&meta)?)
            } else if meta.path.is_ident("num_gpus") {
                keys::once(&mut this.num_gpus, &meta, keys::number(&meta)?)
            } else if meta.path.is_ident("resources") {
                keys::once(&mut this.resources, &meta, resources(&meta)?)
            } else {
                Err(keys::unknown(&meta, &KNOWN))
            }
        });
        parser.parse2(keys)?;
        Ok(this)
    }
}

const KNOWN: [&str; 7] =
    ["max_restarts", "restart_period_ms", "restart", "concurrency", "num_cpus", "num_gpus", "resources"];

/// The amounts of `resources(licence = 1, rack = 0.5)`.
fn resources(meta: &syn::meta::ParseNestedMeta<'_>) -> syn::Result<Vec<(String, Expr)>> {
    if meta.input.peek(syn::Token![=]) || meta.input.is_empty() {
        return Err(meta.error("expected amounts by name: `resources(licence = 1)`"));
    }
    let mut amounts: Vec<(String, Expr)> = Vec::new();
    meta.parse_nested_meta(|amount| {
        let Some(name) = amount.path.get_ident().map(ToString::to_string) else {
            return Err(amount.error("expected the name of a resource, such as `licence = 1`"));
        };
        if ["num_cpus", "num_gpus"].contains(&name.as_str()) {
            return Err(amount.error(format_args!("`{name}` is a key of its own: `#[actor({name} = 1)]`")));
        }
        if amounts.iter().any(|(known, _)| *known == name) {
            return Err(amount.error("said twice: keep one"));
        }
        amounts.push((name, keys::number(&amount)?));
        Ok(())
    })?;
    Ok(amounts)
}

/// The words for when an actor starts again, and the variants they stand for.
const RESTARTS: [(&str, &str); 3] =
    [("permanent", "Permanent"), ("transient", "Transient"), ("temporary", "Temporary")];

impl Actor {
    /// Reads the block, and takes out of it the attributes that are said to us.
    fn read(keys: Keys, block: &mut ItemImpl) -> syn::Result<Self> {
        let mut errors = Errors::default();
        if let Some(parameter) = block.generics.params.first() {
            errors.at(parameter, "an actor is registered under one name with one type: make it generic by an enum or a boxed trait inside");
        }
        if let Some(unsafety) = &block.unsafety {
            errors.at(unsafety, "an actor's methods are safe: remove `unsafe`");
        }
        let ident = match &*block.self_ty {
            Type::Path(path) if path.qself.is_none() => path.path.segments.last().map(|last| last.ident.clone()),
            _ => None,
        };
        if ident.is_none() {
            errors.at(&block.self_ty, "an actor is a type of this crate: write `impl Counter { .. }`");
        }
        let ty = (*block.self_ty).clone();
        let (mut has_new, mut constructor, mut stopping, mut methods) = (false, None, None, Vec::new());
        for item in &mut block.items {
            let ImplItem::Fn(function) = item else { continue };
            let keys = errors.take(MethodKeys::take_from(function)).unwrap_or_default();
            let name = &function.sig.ident;
            if keys.skip.is_some() {
                continue;
            }
            if name == "new" {
                has_new = true;
                constructor = errors.take(Constructor::read(function, &ty));
            } else if name == "spawn" {
                errors.at(name, "`spawn` starts the actor and is written by #[actor]: choose another name");
            } else if name == "stopping" {
                stopping = errors.take(Stopping::read(&function.sig));
            } else if function.sig.receiver().is_some() {
                methods.extend(errors.take(Method::read(function, &ty, keys.cancel_drops.is_some())));
            }
        }
        if !has_new {
            let message = "an actor needs a constructor, called at every start: write `fn new() -> Self` in this block";
            errors.at(&block.self_ty, message);
        }
        let read = ident.zip(constructor);
        errors.finish(read.map(|(ident, constructor)| Self { ty, ident, keys, constructor, stopping, methods }))
    }
}

impl MethodKeys {
    /// Reads `#[handler(..)]` of a method, and removes it.
    fn take_from(function: &mut ImplItemFn) -> syn::Result<Self> {
        let mut this = Self::default();
        let mut result = Ok(());
        function.attrs.retain(|attribute| {
            let ours = attribute.path().is_ident("handler");
            if ours && result.is_ok() {
                result = attribute.parse_nested_meta(|meta| {
                    if meta.path.is_ident("skip") {
                        keys::once(&mut this.skip, &meta, ())
                    } else if meta.path.is_ident("cancel") {
                        keys::once(&mut this.cancel_drops, &meta, cancel(meta.value()?.parse()?)?)
                    } else {
                        Err(keys::unknown(&meta, &["cancel", "skip"]))
                    }
                });
            }
            !ours
        });
        result.map(|()| this)
    }
}

/// The `drop` of `cancel = drop`.
fn cancel(expr: Expr) -> syn::Result<()> {
    match &expr {
        Expr::Path(ExprPath { path, .. }) if path.is_ident("drop") => Ok(()),
        _ => Err(syn::Error::new_spanned(
            expr,
            "expected `drop`: the handler is dropped at its next await when its caller goes away",
        )),
    }
}

impl Constructor {
    fn read(function: &mut ImplItemFn, ty: &Type) -> syn::Result<Self> {
        let mut sig = function.sig.clone();
        ReplaceSelf(ty).visit_signature_mut(&mut sig);
        let signature = Signature::read(&sig, Of::Constructor)?;
        let fallible = match &signature.returns {
            Returns::Value(output) if output == ty => None,
            Returns::Result(output) => Some(output.clone()),
            Returns::Value(_) | Returns::Stream(_) => {
                let message = "`new` makes the state: return `Self` or `Result<Self, E>`";
                return Err(match &function.sig.output {
                    ReturnType::Default => syn::Error::new_spanned(&function.sig.ident, message),
                    ReturnType::Type(_, output) => syn::Error::new_spanned(output, message),
                });
            }
        };
        Ok(Self { vis: function.vis.clone(), docs: docs(&function.attrs), signature, fallible })
    }
}

impl Stopping {
    fn read(sig: &syn::Signature) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let mut takes_context = Vec::new();
        for input in sig.inputs.iter() {
            match input {
                syn::FnArg::Receiver(receiver) if receiver.reference.is_none() => {
                    errors.at(receiver, "the state is dropped after `stopping`, not by it: take `&mut self`");
                }
                syn::FnArg::Receiver(_) => {}
                syn::FnArg::Typed(typed) if matches!(&*typed.ty, Type::Reference(_)) => {
                    takes_context.push(signature::is_context(&typed.ty));
                }
                syn::FnArg::Typed(typed) => {
                    errors.at(typed, "`stopping` takes `reason: &ExitReason` and `ctx: &Context<Self>`, or less");
                }
            }
        }
        if let ReturnType::Type(_, output) = &sig.output {
            errors.at(output, "nobody waits for what `stopping` returns: return nothing, and log what went wrong");
        }
        errors.finish(Some(Self { is_async: sig.asyncness.is_some(), takes_context }))
    }
}

impl Method {
    fn read(function: &ImplItemFn, ty: &Type, cancel_drops: bool) -> syn::Result<Self> {
        let ident = &function.sig.ident;
        let mut errors = Errors::default();
        if TAKEN_BY_THE_REFERENCE.iter().any(|taken| ident == taken) {
            errors.at(ident, format_args!("an `ActorRef` has a method `{ident}` of its own: choose another name"));
        }
        if cancel_drops && function.sig.asyncness.is_none() {
            errors.at(ident, "only an `async fn` waits anywhere it could be dropped: remove `cancel = drop`");
        }
        let mut sig = function.sig.clone();
        ReplaceSelf(ty).visit_signature_mut(&mut sig);
        let signature = errors.take(Signature::read(&sig, Of::Method));
        let signature = errors.finish(signature)?;
        Ok(Self {
            vis: function.vis.clone(),
            docs: docs(&function.attrs),
            conditions: function.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg")).cloned().collect(),
            cancel_drops,
            signature,
        })
    }
}

fn docs(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).cloned().collect()
}

/// Writes the actor's type where a signature says `Self`, so that it can be said outside of the block.
struct ReplaceSelf<'a>(&'a Type);

impl VisitMut for ReplaceSelf<'_> {
    fn visit_receiver_mut(&mut self, _: &mut syn::Receiver) {}

    fn visit_path_mut(&mut self, path: &mut syn::Path) {
        syn::visit_mut::visit_path_mut(self, path);
        let Type::Path(ty) = self.0 else { return };
        if path.leading_colon.is_none() && path.segments.first().is_some_and(|first| first.ident == "Self") {
            let rest = std::mem::take(&mut path.segments).into_iter().skip(1);
            path.leading_colon = ty.path.leading_colon;
            path.segments = ty.path.segments.iter().cloned().chain(rest).collect();
        }
    }
}
